use super::*;
use frit_load::gguf::Vocabulary;

/// A model that goes on with a given text, whatever the prompt, and remembers how it was called.
struct Fake {
    /// What follows, by the number of tokens before.
    next: fn(usize) -> u32,
    rows: Vec<usize>,
    capacity: usize,
    calls: Vec<String>,
    fails: bool,
}

const VOCAB: usize = 9;
/// Most positions of the fake model.
const MOST: usize = 40;
/// End of the text, letters, a space, and the two halves of an é.
const TOKENS: [&str; VOCAB] = ["<end>", "a", "b", "c", "Ġ", "Ã", "©", "d", "!"];
const END: u32 = 0;
const A: u32 = 1;
const B: u32 = 2;
const C: u32 = 3;
const SPACE: u32 = 4;
const E1: u32 = 5;
const E2: u32 = 6;

impl Fake {
    fn logits(&self, n: usize) -> Vec<f32> {
        let mut row = vec![0.0; VOCAB];
        row[(self.next)(n) as usize] = 5.0;
        row
    }
}

impl CausalLm for Fake {
    fn vocab(&self) -> usize {
        VOCAB
    }

    fn max_positions(&self) -> usize {
        MOST
    }

    fn prefill(
        &mut self,
        prompts: &[Vec<u32>],
        capacity: usize,
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        self.calls.push(format!("prefill {prompts:?} into {capacity}"));
        self.rows = prompts.iter().map(Vec::len).collect();
        self.capacity = capacity;
        Ok(self.rows.iter().map(|&n| self.logits(n)).collect())
    }

    fn append(&mut self, tokens: &[u32]) -> Result<Vec<f32>, ModelError> {
        self.calls.push(format!("append {tokens:?}"));
        self.rows[0] += tokens.len();
        Ok(self.logits(self.rows[0]))
    }

    fn step(&mut self, tokens: &[u32]) -> Result<Vec<Vec<f32>>, ModelError> {
        if self.fails {
            return Err("the network broke".into());
        }
        assert_eq!(tokens.len(), self.rows.len());
        self.rows.iter_mut().for_each(|n| *n += 1);
        assert!(self.rows.iter().all(|&n| n <= self.capacity), "past the capacity");
        Ok(self.rows.iter().map(|&n| self.logits(n)).collect())
    }

    fn rewind(&mut self, tokens: usize) {
        self.calls.push(format!("rewind {tokens}"));
        self.rows[0] = tokens;
    }

    fn capacity(&self) -> usize {
        self.capacity
    }
}

fn generator(next: fn(usize) -> u32) -> TextGenerator<Fake> {
    let tokenizer = Tokenizer::from_vocabulary(Vocabulary {
        model: "gpt2".into(),
        pre: Some("smollm".into()),
        tokens: TOKENS.map(String::from).into(),
        types: vec![3, 1, 1, 1, 1, 1, 1, 1, 1],
        eos: Some(END),
        ..Vocabulary::default()
    });
    TextGenerator::new(
        Fake { next, rows: Vec::new(), capacity: 0, calls: Vec::new(), fails: false },
        tokenizer.expect("a tokenizer"),
    )
}

fn some(max_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_tokens, ..GenerateOptions::default() }
}

fn run(g: &mut TextGenerator<Fake>, prompt: &[u32], options: &GenerateOptions) -> Generated {
    g.generate_with(prompt, options, &mut |_| ControlFlow::Continue(())).expect("a text")
}

/// a, b, c, a, b, c, ...
fn abc(n: usize) -> u32 {
    [A, B, C][n % 3]
}

#[test]
fn a_text_ends_after_as_many_tokens_as_were_wanted() {
    let mut g = generator(abc);
    let got = g.generate("ab", &some(4)).expect("a text");
    assert_eq!((got.ids.as_slice(), got.text.as_str()), (&[C, A, B, C][..], "cabc"));
    assert_eq!((got.finish, got.stats.prompt_tokens, got.stats.steps), (Finish::Length, 2, 3));
    // The last token is never read: two of the prompt and three steps.
    assert_eq!(g.model().calls, ["prefill [[1, 2]] into 5"]);
    let none = g.generate("ab", &some(0)).expect("a text");
    assert_eq!((none.ids.len(), none.finish), (0, Finish::Length));
}

#[test]
fn an_end_token_ends_the_text_unless_it_is_ignored() {
    let next = |n: usize| if n == 4 { END } else { A };
    let got = run(&mut generator(next), &[B, B], &some(9));
    assert_eq!((got.ids.as_slice(), got.finish), (&[A, A][..], Finish::End));
    let on = GenerateOptions { ignore_end: true, ..some(4) };
    let got = run(&mut generator(next), &[B, B], &on);
    assert_eq!((got.ids.as_slice(), got.text.as_str()), (&[A, A, END, A][..], "aaa"));
    let own = GenerateOptions { stop_tokens: vec![A], ..some(4) };
    let got = run(&mut generator(next), &[B], &own);
    assert_eq!((got.ids.len(), got.finish), (0, Finish::End));
}

#[test]
fn a_stop_text_is_not_shown_and_what_only_begins_like_one_is() {
    let stop = |text: &str| GenerateOptions { stop: vec![text.into()], ..some(8) };
    let got = run(&mut generator(abc), &[SPACE], &stop("ca"));
    assert_eq!((got.text.as_str(), got.finish), ("b", Finish::Stop));
    assert_eq!(got.ids, [B, C, A]);
    // "cd" never comes; the last c is held back until the text ends.
    let mut shown = Vec::new();
    let mut g = generator(|n| if n == 4 { END } else { abc(n) });
    let got = g.generate_with(&[SPACE], &stop("cd"), &mut |piece| {
        shown.push((piece.id, piece.text.clone()));
        ControlFlow::Continue(())
    });
    assert_eq!(got.expect("a text").text, "bca");
    let text = |s: &str| s.to_string();
    let wanted = [(Some(B), text("b")), (Some(C), text("")), (Some(A), text("ca"))];
    assert_eq!(shown, wanted);
    let mut g = generator(|n| if n == 3 { END } else { abc(n) });
    let pieces: Vec<Piece> =
        g.stream(&[SPACE], &stop("cd")).expect("a stream").map(|p| p.expect("a piece")).collect();
    assert_eq!(pieces[2], Piece { id: None, text: text("c") });
}

#[test]
fn a_character_of_several_tokens_comes_whole() {
    let mut g = generator(|n| if n % 2 == 1 { E1 } else { E2 });
    let pieces: Vec<Piece> =
        g.stream(&[A], &some(3)).expect("a stream").map(|p| p.expect("a piece")).collect();
    let texts: Vec<&str> = pieces.iter().map(|p| p.text.as_str()).collect();
    // The last half is all there is of its character.
    assert_eq!(texts, ["", "é", "\u{fffd}"]);
}

#[test]
fn who_listens_can_stop_and_the_text_so_far_stays() {
    let mut g = generator(abc);
    let mut heard = 0;
    let got = g.generate_with(&[A], &some(30), &mut |_| {
        heard += 1;
        if heard == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let got = got.expect("a text");
    assert_eq!((got.ids.as_slice(), got.finish), (&[B, C, A][..], Finish::Cancelled));
    assert_eq!(got.stats.steps, 2);
}

#[test]
fn a_prompt_that_goes_on_from_the_last_text_is_not_read_anew() {
    let mut g = generator(abc);
    run(&mut g, &[A], &some(20));
    g.model.calls.clear();
    // Of a, b, c, a the model has read all; the b is new.
    let got = run(&mut g, &[A, B, C, A, SPACE], &some(3));
    assert_eq!(g.model().calls, ["rewind 4", "append [4]"]);
    assert_eq!((got.stats.reused_tokens, got.stats.prompt_tokens), (4, 5));
    g.model.calls.clear();
    // One token is always read, for its logits.
    run(&mut g, &[A, B], &some(3));
    assert_eq!(g.model().calls, ["rewind 1", "append [2]"]);
    g.model.calls.clear();
    // More room than there is: from the start, and so where nothing is the same.
    run(&mut g, &[A, B], &some(30));
    run(&mut g, &[C, B], &some(3));
    assert_eq!(g.model().calls, ["prefill [[1, 2]] into 31", "prefill [[3, 2]] into 4"]);
}

#[test]
fn a_full_model_ends_the_text() {
    let prompt = vec![A; MOST - 2];
    let got = run(&mut generator(abc), &prompt, &some(30));
    // Two more are read, and the logits after the last of them give a third.
    assert_eq!((got.ids.len(), got.finish), (3, Finish::Full));
    let error = generator(abc).stream(&[A; MOST + 1], &some(1)).err().expect("too long");
    assert_eq!(error.to_string(), "a prompt of 41 tokens does not fit: the model takes 40");
}

#[test]
fn rows_of_a_batch_end_on_their_own() {
    // A row of three tokens ends after two more.
    let mut g = generator(|n| if n == 5 { END } else { abc(n) });
    let prompts = [vec![A, A, A], vec![B], vec![C; 5]];
    let got = g.generate_batch(&prompts, &some(6)).expect("texts");
    let ids: Vec<&[u32]> = got.iter().map(|g| g.ids.as_slice()).collect();
    assert_eq!(ids, [&[A, B][..], &[B, C, A, B], &[]]);
    assert!(got.iter().all(|g| g.finish == Finish::End));
    assert_eq!(g.model().calls, ["prefill [[1, 1, 1], [2], [3, 3, 3, 3, 3]] into 10"]);
    assert_eq!(g.generate_batch(&[], &some(6)).expect("nothing"), []);
    let lengths = g.generate_batch(&[vec![A; 6], vec![A; 7]], &some(3)).expect("texts");
    assert!(lengths.iter().all(|g| g.ids.len() == 3 && g.finish == Finish::Length));
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let mut g = generator(abc);
    let message = |r: Result<Generated, GenerateError>| r.expect_err("refused").to_string();
    assert_eq!(message(g.generate("", &some(1))), "the prompt has no tokens");
    let on = &mut |_: &Piece| ControlFlow::Continue(());
    let unknown = g.generate_with(&[A, 9], &some(1), on);
    assert_eq!(message(unknown), "token 9 is not one of the 9 that the model knows");
    let mut wrong = some(1);
    wrong.sampling.top_p = 0.0;
    assert!(message(g.generate("a", &wrong)).starts_with("top_p must be"));
    g.model.fails = true;
    assert_eq!(message(g.generate("a", &some(3))), "the network broke");
    // Nobody knows what its caches hold: the next text begins from the start.
    g.model.fails = false;
    g.model.calls.clear();
    run(&mut g, &[A, B], &some(2));
    assert_eq!(g.model().calls, ["prefill [[1, 2]] into 3"]);
}

#[test]
fn a_talk_keeps_its_turns_and_forgets_the_oldest_where_it_is_too_long() {
    let source = "{% for m in messages %}{{ m.content }}{% if m.role == 'user' %}!{% endif %}\
                  {% endfor %}{% if add_generation_prompt %} {% endif %}";
    let template = crate::chat::ChatTemplate::new(source).expect("a template");
    let mut talk = Conversation::new(template, Some("d"));
    let mut g = generator(|n| if n.is_multiple_of(4) { END } else { B });
    let on = &mut |_: &Piece| ControlFlow::Continue(());
    let turn = talk.say(&mut g, "aa", &some(8), on).expect("an answer");
    // "daa! " are 5 tokens; three more until 8 are there.
    assert_eq!((turn.answer.text.as_str(), turn.forgotten), ("bbb", 0));
    let contents =
        |t: &Conversation| t.messages().iter().map(|m| m.content.clone()).collect::<Vec<_>>();
    assert_eq!(contents(&talk), ["d", "aa", "bbb"]);
    // 8 and 26 tokens are more than 40 less the 8 that the answer may have.
    let long = "c".repeat(25);
    let turn = talk.say(&mut g, &long, &some(8), on).expect("an answer");
    assert_eq!(turn.forgotten, 2);
    assert_eq!(contents(&talk)[..2], ["d".to_string(), long]);
    let before = contents(&talk);
    talk.say(&mut g, &"c".repeat(50), &some(8), on).expect_err("too long");
    assert_eq!(contents(&talk), before);
    talk.reset();
    assert_eq!(contents(&talk), ["d"]);
}
