//! Dates as templates ask for them, in UTC: the directives of `strftime` that they use.

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// The moment, `seconds` after 1970, written as `format` says.
pub(super) fn strftime(format: &str, seconds: i64) -> Result<String, String> {
    let (days, time) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = date(days);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    // 1970 began on a Thursday.
    let weekday = DAYS[(days + 3).rem_euclid(7) as usize];
    let month_name = MONTHS[month as usize - 1];
    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let directive = rest.next();
        // A minus leaves out leading zeros.
        let (plain, directive) = match directive {
            Some('-') => (true, rest.next()),
            other => (false, other),
        };
        let two = |n: i64| if plain { n.to_string() } else { format!("{n:02}") };
        out += &match directive {
            Some('Y') => year.to_string(),
            Some('y') => two(year.rem_euclid(100)),
            Some('m') => two(month),
            Some('d') => two(day),
            Some('e') => format!("{day:2}"),
            Some('H') => two(hour),
            Some('I') => two((hour + 11) % 12 + 1),
            Some('M') => two(minute),
            Some('S') => two(second),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.into(),
            Some('B') => month_name.into(),
            Some('b' | 'h') => month_name[..3].into(),
            Some('A') => weekday.into(),
            Some('a') => weekday[..3].into(),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('%') => "%".into(),
            Some(other) => return Err(format!("strftime_now does not know %{other}")),
            None => return Err("strftime_now: a lone % at the end".into()),
        };
    }
    Ok(out)
}

/// Year, month and day of the Gregorian calendar, `days` after 1 January 1970.
fn date(days: i64) -> (i64, i64, i64) {
    // Counted from 1 March of the year 0, a year ends with its leap day; 400 years are 146097 days.
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // Months from March on: 31, 30, 31, 30, 31 days, and again.
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + later, month, day_of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_python_writes_them() {
        for (seconds, format, want) in [
            (0, "%Y-%m-%d %H:%M:%S %A", "1970-01-01 00:00:00 Thursday"),
            (951_782_400, "%d %b %Y, %a", "29 Feb 2000, Tue"),
            (1_721_952_000, "%d %b %Y", "26 Jul 2024"),
            (1_735_689_599, "%B %-d, %Y %I:%M %p %%", "December 31, 2024 11:59 PM %"),
            (-1, "%F %T %y %e", "1969-12-31 23:59:59 69 31"),
            (4_107_542_400, "%F", "2100-03-01"),
        ] {
            assert_eq!(strftime(format, seconds).as_deref(), Ok(want));
        }
        assert!(strftime("%Q", 0).is_err() && strftime("%", 0).is_err());
    }

    #[test]
    fn days_follow_each_other_for_centuries() {
        let mut before = date(-200_000);
        for days in -199_999..200_000 {
            let (y, m, d) = date(days);
            let next_day = (y, m, d) == (before.0, before.1, before.2 + 1);
            let next_month = d == 1 && (y, m) == (before.0, before.1 + 1) && before.2 >= 28;
            let next_year = (m, d) == (1, 1) && y == before.0 + 1 && before.1 == 12;
            assert!(next_day || next_month || next_year, "{before:?} {y} {m} {d}");
            before = (y, m, d);
        }
        assert_eq!(date(-719_162), (1, 1, 1));
    }
}
