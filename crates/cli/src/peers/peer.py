"""One peer at work: requests as JSON lines on the standard input, an answer line to each.

{"make": {...}}     prepare what shall be timed; {"composed": bool} or {"cannot": why}
{"sample": {...}}   run it; {"seconds": of one run}

Operands come in an .npz of float32 arrays; the first result goes to an .npy, so that whoever asks
can see that the same thing was computed.
"""

import json
import os
import sys
import time

name, threads = sys.argv[1], int(sys.argv[2])
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = str(threads)

# Libraries print what they like; the answers keep the real standard output for themselves.
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def answer(**what):
    answers.write(json.dumps(what) + "\n")
    answers.flush()


class Cannot(Exception):
    pass


class Torch:
    def __init__(self):
        import torch

        torch.set_num_threads(threads)
        self.torch, self.version = torch, torch.__version__
        torch.inference_mode().__enter__()

    def array(self, x, dtype):
        t = self.torch
        x = t.from_numpy(x)
        kinds = {"f32": t.float32, "f16": t.float16, "bf16": t.bfloat16}
        return x if x.dtype == t.bool else x.to(kinds[dtype])

    def numpy(self, y):
        return y.float().numpy()

    def case(self, op, o, i):
        t, F = self.torch, self.torch.nn.functional
        x = i.get("x")
        if op == "rms_norm":
            return lambda: F.rms_norm(x, (x.shape[-1],), i.get("weight"), o["eps"]), False
        if op == "layer_norm":
            return lambda: F.layer_norm(x, (x.shape[-1],), i.get("weight"), i.get("bias"), o["eps"]), False
        if op == "softmax":
            return lambda: F.softmax(x, -1), False
        if op == "gelu":
            return lambda: F.gelu(x), False
        if op == "silu":
            return lambda: F.silu(x), False
        if op == "swiglu":
            gate, up = i["gate"], i["up"]
            return lambda: F.silu(gate) * up, True
        if op == "rope":
            half, steps = o["dims"] // 2, x.shape[-2]
            each = o["base"] ** (-t.arange(half, dtype=t.float64) / half)
            angles = (o["offset"] + t.arange(steps, dtype=t.float64))[:, None] * each
            cos, sin = (t.cat([f, f], -1).to(x.dtype) for f in (angles.cos(), angles.sin()))
            return lambda: x * cos + t.cat((-x[..., half:], x[..., :half]), -1) * sin, True
        if op == "linear":
            act = {"gelu": F.gelu, "silu": F.silu, "none": None}[o["activation"]]
            w, b = i["weight"], i.get("bias")
            return (lambda: act(F.linear(x, w, b)) if act else F.linear(x, w, b)), act is not None
        if op == "conv1d":
            act = {"gelu": F.gelu, "silu": F.silu, "none": None}[o["activation"]]
            rest = (i["weight"], i.get("bias"), o["stride"], o["padding"], o["dilation"], o["groups"])
            return (lambda: act(F.conv1d(x, *rest)) if act else F.conv1d(x, *rest)), act is not None
        if op == "scaled_dot_product_attention":
            q, k, v, mask = i["q"], i["k"], i["v"], i.get("mask")
            more = {"is_causal": o["causal"], "enable_gqa": q.shape[1] != k.shape[1]}
            return lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **more), False
        raise Cannot(f"has no {op}")


class Mlx:
    def __init__(self):
        import mlx.core as mx

        mx.set_default_device(mx.cpu)
        self.mx = mx
        self.version = getattr(mx, "__version__", "")

    def array(self, x, dtype):
        mx = self.mx
        kinds = {"f32": mx.float32, "f16": mx.float16, "bf16": mx.bfloat16}
        y = mx.array(x)
        y = y if x.dtype == bool else y.astype(kinds[dtype])
        mx.eval(y)
        return y

    def numpy(self, y):
        import numpy

        return numpy.array(y.astype(self.mx.float32))

    def case(self, op, o, i):
        mx, run, composed = self.mx, None, False
        x = i.get("x")
        if op == "rms_norm":
            run = lambda: mx.fast.rms_norm(x, i.get("weight"), o["eps"])
        elif op == "layer_norm":
            run = lambda: mx.fast.layer_norm(x, i.get("weight"), i.get("bias"), o["eps"])
        elif op == "softmax":
            run = lambda: mx.softmax(x, axis=-1)
        elif op == "swiglu":
            f = mx.compile(lambda g, u: g * mx.sigmoid(g) * u)
            run, composed = lambda: f(i["gate"], i["up"]), True
        elif op == "rope":
            more = {"traditional": False, "base": o["base"], "scale": 1.0, "offset": o["offset"]}
            run = lambda: mx.fast.rope(x, o["dims"], **more)
        elif op == "scaled_dot_product_attention":
            q, k, v = i["q"], i["k"], i["v"]
            mask = "causal" if o["causal"] else i.get("mask")
            scale = q.shape[-1] ** -0.5
            run = lambda: mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
        else:
            raise Cannot(f"has no {op}")

        def evaluated():
            y = run()
            mx.eval(y)
            return y

        return evaluated, composed


class Ort:
    def __init__(self):
        import onnxruntime

        self.ort, self.version = onnxruntime, onnxruntime.__version__

    def array(self, x, dtype):
        if dtype != "f32":
            raise Cannot(f"is timed in f32 only, not in {dtype}")
        return x

    def numpy(self, y):
        return y

    def session(self, model):
        o = self.ort.SessionOptions()
        o.intra_op_num_threads, o.inter_op_num_threads, o.log_severity_level = threads, 1, 3
        return self.ort.InferenceSession(model, o, providers=["CPUExecutionProvider"])

    def bound(self, session, feeds):
        b = session.io_binding()
        for n, a in feeds.items():
            b.bind_ortvalue_input(n, self.ort.OrtValue.ortvalue_from_numpy(a))
        for y in session.get_outputs():
            b.bind_output(y.name)

        def run():
            session.run_with_iobinding(b)
            return b

        return run

    def graph(self, nodes, feeds, opset=17):
        from onnx import TensorProto as P
        from onnx import helper as h

        kind = lambda a: P.BOOL if a.dtype == bool else P.FLOAT
        inputs = [h.make_tensor_value_info(n, kind(a), a.shape) for n, a in feeds.items()]
        made = [h.make_node(o, list(x), [y], **a) for o, x, y, a in nodes]
        g = h.make_graph(made, "g", inputs, [h.make_tensor_value_info("y", P.FLOAT, None)])
        m = h.make_model(g, opset_imports=[h.make_opsetid("", opset)], ir_version=10)
        return self.bound(self.session(m.SerializeToString()), feeds)

    def case(self, op, o, i):
        given = lambda *names: {n: i[n] for n in names if i.get(n) is not None}
        if op == "rms_norm":
            node = ("SimplifiedLayerNormalization", ["x", "weight"], "y", {"axis": -1, "epsilon": o["eps"]})
            return self.graph([node], given("x", "weight")), False
        if op == "layer_norm":
            feeds = given("x", "weight", "bias")
            return self.graph([("LayerNormalization", feeds, "y", {"axis": -1, "epsilon": o["eps"]})], feeds), False
        if op == "softmax":
            return self.graph([("Softmax", ["x"], "y", {"axis": -1})], given("x")), False
        if op == "gelu":
            return self.graph([("Gelu", ["x"], "y", {})], given("x"), 20), False
        if op == "silu":
            nodes = [("Sigmoid", ["x"], "s", {}), ("Mul", ["x", "s"], "y", {})]
            return self.graph(nodes, given("x")), True
        if op == "swiglu":
            nodes = [("Sigmoid", ["gate"], "s", {}), ("Mul", ["gate", "s"], "t", {}), ("Mul", ["t", "up"], "y", {})]
            return self.graph(nodes, given("gate", "up")), True
        if op == "linear" and o["activation"] == "none" and i["x"].ndim == 2:
            feeds = given("x", "weight", "bias")
            return self.graph([("Gemm", feeds, "y", {"transB": 1})], feeds), False
        if op == "scaled_dot_product_attention":
            feeds = given("q", "k", "v", "mask")
            return self.graph([("Attention", feeds, "y", {"is_causal": int(o["causal"])})], feeds, 23), False
        raise Cannot(f"has no {op}")

    def file(self, path, feeds):
        return self.bound(self.session(path), feeds), False


class FasterWhisper:
    def __init__(self):
        import faster_whisper

        self.module, self.version = faster_whisper, faster_whisper.__version__

    def speech(self, folder, samples):
        model = self.module.WhisperModel(folder, device="cpu", compute_type="float32", cpu_threads=threads)
        plain = {"beam_size": 1, "temperature": 0.0, "without_timestamps": True, "language": "en"}

        def run():
            said, _ = model.transcribe(samples, condition_on_previous_text=False, **plain)
            return "".join(s.text for s in said).strip()

        return run, False


class LlamaCpp:
    def __init__(self):
        import llama_cpp

        self.module, self.version = llama_cpp, llama_cpp.__version__

    def language(self, path, prompt, steps):
        both = {"n_threads": threads, "n_threads_batch": threads, "verbose": False}
        model = self.module.Llama(path, n_ctx=2048, **both)
        if steps == 0:

            def prefill():
                model.reset()
                model.eval(prompt)

            return prefill, False

        def decode():
            model.reset()
            model.eval(prompt)
            started = time.perf_counter()
            token = prompt[-1]
            for _ in range(steps):
                model.eval([token])
                token = (token * 7919 + 13) % 40000
            return (time.perf_counter() - started) / steps

        return decode, False


PEERS = {"torch": Torch, "ort": Ort, "mlx": Mlx, "faster_whisper": FasterWhisper, "llama_cpp": LlamaCpp}


def make(peer, a):
    import numpy

    load = lambda path: dict(numpy.load(path))
    if "op" in a:
        inputs = {n: peer.array(x, a["dtype"]) for n, x in load(a["inputs"]).items()}
        run, composed = peer.case(a["op"], a["options"], inputs)
        numpy.save(a["result"], first(peer, run))
        return run, composed
    if "onnx" in a:
        return peer.file(a["onnx"], load(a["inputs"]))
    if "speech" in a:
        return peer.speech(a["speech"], load(a["inputs"])["samples"])
    return peer.language(a["language"], a["prompt"], a["steps"])


def first(peer, run):
    y = run()
    return y.get_outputs()[0].numpy() if hasattr(y, "get_outputs") else peer.numpy(y)


def sample(run, times):
    """Seconds of one run: the mean of some, or what the run itself has measured."""
    started = time.perf_counter()
    for _ in range(times):
        own = run()
    own = own if isinstance(own, float) else None
    return own or (time.perf_counter() - started) / times


try:
    peer = PEERS[name]()
    answer(version=peer.version)
except Exception as e:
    answer(cannot=f"{type(e).__name__}: {e}"[:300])
    sys.exit()

run, runs, warm = None, 1, 0.0
for line in sys.stdin:
    request = json.loads(line)
    try:
        if "make" in request:
            run, composed = make(peer, request["make"])
            sample(run, 1)
            once = max(sample(run, 1), 1e-9)
            runs = max(1, min(1000, int(request["make"].get("least", 0) / once) + 1))
            short = once < request["make"].get("short", 0)
            warm = request["make"].get("warm", 0) if short else 0.0
            answer(composed=composed)
        else:
            waking = time.perf_counter()
            while time.perf_counter() - waking < warm:
                run()
            answer(seconds=sample(run, runs))
    except Exception as e:
        answer(cannot=f"{type(e).__name__}: {e}"[:300])
