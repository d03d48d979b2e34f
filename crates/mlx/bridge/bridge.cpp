// The bridge between Frit and MLX: plain C functions over MLX's C++ interface.
//
// Every operation has one signature, `array *frit_NAME(const Args *)`, so that the Rust side needs one
// function type and one table of names. No exception leaves this file: a function that fails returns
// null (or -1), and frit_error() is the message, kept for each thread.
//
// The caller holds a lock around every call. Streams are made once for the whole process, because
// MLX's own default streams belong to a thread and stay behind when it ends.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#include "mlx/array.h"
#include "mlx/compile.h"
#include "mlx/device.h"
#include "mlx/einsum.h"
#include "mlx/fast.h"
#include "mlx/memory.h"
#include "mlx/ops.h"
#include "mlx/stream.h"
#include "mlx/transforms.h"
#include "mlx/version.h"

namespace mx = mlx::core;
using mx::array;

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

thread_local std::string last_error;

// What an operation is given. Absent operands are null.
struct Args {
  array *const *arrays;
  size_t array_count;
  const int64_t *ints;
  size_t int_count;
  const double *reals;
  size_t real_count;
  const char *text;
  int gpu;
};

mx::Stream stream_of(bool gpu) {
  static std::optional<mx::Stream> cpu_stream, gpu_stream;
  auto &stream = gpu ? gpu_stream : cpu_stream;
  if (!stream) {
    auto device = gpu ? mx::Device::gpu : mx::Device::cpu;
    stream = mx::new_thread_unsafe_stream(mx::Device(device));
  }
  return *stream;
}

// In the order of the types on the Rust side.
mx::Dtype dtype_of(int64_t code) {
  switch (code) {
    case 0: return mx::float64;
    case 1: return mx::float32;
    case 2: return mx::float16;
    case 3: return mx::bfloat16;
    case 4: return mx::int64;
    case 5: return mx::int32;
    case 6: return mx::uint32;
    case 7: return mx::uint8;
    case 8: return mx::bool_;
  }
  throw std::invalid_argument("no such type");
}

int code_of(mx::Dtype t) {
  for (int code = 0; code < 9; code++) {
    if (dtype_of(code) == t) return code;
  }
  throw std::invalid_argument("MLX gave a type that Frit does not have");
}

// Reads operands and options in order, checking that they are there.
struct Reader {
  const Args &a;
  mx::Stream s;
  size_t int_at = 0, real_at = 0;

  explicit Reader(const Args &args) : a(args), s(stream_of(args.gpu != 0)) {}

  const array &x(size_t i) const {
    if (i >= a.array_count || !a.arrays[i]) throw std::invalid_argument("an operand is absent");
    return *a.arrays[i];
  }
  std::optional<array> maybe(size_t i) const {
    if (i >= a.array_count || !a.arrays[i]) return std::nullopt;
    return *a.arrays[i];
  }
  std::vector<array> all() const {
    std::vector<array> out;
    for (size_t i = 0; i < a.array_count; i++) out.push_back(x(i));
    return out;
  }
  int64_t integer() {
    if (int_at >= a.int_count) throw std::invalid_argument("an option is absent");
    return a.ints[int_at++];
  }
  double real() {
    if (real_at >= a.real_count) throw std::invalid_argument("a number is absent");
    return a.reals[real_at++];
  }
  mx::Shape shape(size_t n) {
    mx::Shape out;
    for (size_t i = 0; i < n; i++) out.push_back(static_cast<int32_t>(integer()));
    return out;
  }
  mx::Shape rest() { return shape(a.int_count - int_at); }
  std::vector<int> axes() {
    std::vector<int> out;
    while (int_at < a.int_count) out.push_back(static_cast<int>(integer()));
    return out;
  }
};

bool is_float(const array &x) { return mx::issubdtype(x.dtype(), mx::floating); }

array number(double v, mx::Dtype t) { return array(v, t); }
array whole(int64_t v, mx::Dtype t) { return array(v, t); }

// Truncation that saturates, and 0 for what is no number.
array to_integer(const array &x, mx::Dtype t, mx::Stream s) {
  double low, beyond;
  int64_t first, last;
  if (t == mx::int64) {
    low = -9223372036854775808.0, beyond = 9223372036854775808.0;
    first = std::numeric_limits<int64_t>::min(), last = std::numeric_limits<int64_t>::max();
  } else if (t == mx::int32) {
    low = -2147483648.0, beyond = 2147483648.0, first = INT32_MIN, last = INT32_MAX;
  } else if (t == mx::uint32) {
    low = 0, beyond = 4294967296.0, first = 0, last = UINT32_MAX;
  } else {
    low = 0, beyond = 256.0, first = 0, last = 255;
  }
  // Half precision cannot hold the ends.
  array wide = x.dtype() == mx::float64 ? x : mx::astype(x, mx::float32, s);
  auto n = [&](double v) { return number(v, wide.dtype()); };
  array under = mx::less_equal(wide, n(low), s), over = mx::greater_equal(wide, n(beyond), s);
  array odd = mx::logical_or(mx::isnan(wide, s), mx::logical_or(under, over, s), s);
  array inside = mx::astype(mx::where(odd, n(0), wide, s), t, s);
  return mx::where(under, whole(first, t), mx::where(over, whole(last, t), inside, s), s);
}

array cast(const array &x, mx::Dtype t, mx::Stream s) {
  if (x.dtype() == t) return x;
  bool integer = t == mx::int64 || t == mx::int32 || t == mx::uint32 || t == mx::uint8;
  return integer && is_float(x) ? to_integer(x, t, s) : mx::astype(x, t, s);
}

// Narrow floats are computed in float32 and rounded once.
array widened(const array &x, mx::Stream s) {
  bool narrow = x.dtype() == mx::float16 || x.dtype() == mx::bfloat16;
  return narrow ? mx::astype(x, mx::float32, s) : x;
}

// Integer division by truncation; 0 by 0. A machine's division would trap on both ends.
array quotient(const array &a, const array &b, mx::Stream s) {
  auto t = a.dtype();
  array zero = whole(0, t), one = whole(1, t);
  array by_zero = mx::equal(b, zero, s);
  bool has_sign = t == mx::int64 || t == mx::int32;
  array unsafe_b = has_sign ? mx::logical_or(by_zero, mx::equal(b, whole(-1, t), s), s) : by_zero;
  array safe = mx::where(unsafe_b, one, b, s);
  array q = mx::floor_divide(a, safe, s);
  if (has_sign) {
    // Where a device rounds down instead, the remainder has not the sign of a.
    array r = mx::subtract(a, mx::multiply(q, safe, s), s);
    array down = mx::less(mx::multiply(mx::sign(r, s), mx::sign(a, s), s), zero, s);
    q = mx::where(down, mx::add(q, one, s), q, s);
    q = mx::where(mx::equal(b, whole(-1, t), s), mx::negative(a, s), q, s);
  }
  return mx::where(by_zero, zero, q, s);
}

array remainder(const array &a, const array &b, mx::Stream s) {
  if (!is_float(a)) {
    array r = mx::subtract(a, mx::multiply(quotient(a, b, s), b, s), s);
    return mx::where(mx::equal(b, whole(0, b.dtype()), s), whole(0, a.dtype()), r, s);
  }
  // MLX's has the sign of b, ours that of a.
  array r = mx::remainder(mx::abs(a, s), mx::abs(b, s), s);
  return mx::where(mx::less(a, number(0, a.dtype()), s), mx::negative(r, s), r, s);
}

array power(const array &a, const array &b, mx::Stream s) {
  if (is_float(a)) return mx::power(a, b, s);
  auto t = a.dtype();
  array zero = whole(0, t), one = whole(1, t);
  if (t == mx::uint8 || t == mx::uint32) return mx::power(a, b, s);
  // MLX's loop does not end for a negative exponent.
  array plain = mx::power(a, mx::maximum(b, zero, s), s);
  array odd = mx::equal(remainder(b, whole(2, t), s), zero, s);
  array of_minus_one = mx::where(odd, one, whole(-1, t), s);
  array largest = mx::astype(whole(std::numeric_limits<int64_t>::max(), mx::int64), t, s);
  array small = mx::where(mx::equal(a, zero, s), largest, zero, s);
  small = mx::where(mx::equal(a, whole(-1, t), s), of_minus_one, small, s);
  small = mx::where(mx::equal(a, one, s), one, small, s);
  return mx::where(mx::less(b, zero, s), small, plain, s);
}

// MLX computes these in float64 to the digits of float32 only. They are done at once, here: models
// have them for the few angles of their positions.
array exactly(double (*f)(double), const array &x, mx::Stream s) {
  array dense = mx::contiguous(x, false, s);
  mx::eval(dense);
  const double *from = dense.data<double>();
  std::vector<double> to(from, from + dense.size());
  for (double &v : to) v = f(v);
  return array(to.begin(), x.shape(), mx::float64);
}

array unary(int64_t f, const array &x, mx::Stream s) {
  if (x.dtype() == mx::float64) {
    switch (f) {
      case 2: return exactly([](double v) { return std::exp(v); }, x, s);
      case 6: return exactly([](double v) { return std::sin(v); }, x, s);
      case 7: return exactly([](double v) { return std::cos(v); }, x, s);
      case 8: return exactly([](double v) { return std::tanh(v); }, x, s);
      case 9: return exactly([](double v) { return std::erf(v); }, x, s);
      case 10: return exactly([](double v) { return 1 / (1 + std::exp(-v)); }, x, s);
    }
  }
  switch (f) {
    case 0: return mx::negative(x, s);
    case 1: return mx::abs(x, s);
    case 2: return mx::exp(x, s);
    case 3: return mx::log(x, s);
    case 4: return mx::sqrt(x, s);
    case 5: return mx::rsqrt(x, s);
    case 6: return mx::sin(x, s);
    case 7: return mx::cos(x, s);
    case 8: return mx::tanh(x, s);
    case 9: return mx::erf(x, s);
    case 10: return mx::sigmoid(x, s);
    case 11: return mx::floor(x, s);
    case 12: return mx::ceil(x, s);
    case 13: return mx::round(x, 0, s);
    case 14: return mx::logical_not(x, s);
  }
  throw std::invalid_argument("no such function");
}

array binary(int64_t f, const array &a, const array &b, mx::Stream s) {
  switch (f) {
    case 0: return mx::add(a, b, s);
    case 1: return mx::subtract(a, b, s);
    case 2: return mx::multiply(a, b, s);
    case 3: return is_float(a) ? mx::divide(a, b, s) : quotient(a, b, s);
    case 4: return remainder(a, b, s);
    case 5: return power(a, b, s);
    case 6: return mx::maximum(a, b, s);
    case 7: return mx::minimum(a, b, s);
    case 8: return mx::logical_and(a, b, s);
    case 9: return mx::logical_or(a, b, s);
  }
  throw std::invalid_argument("no such function");
}

array compare(int64_t f, const array &a, const array &b, mx::Stream s) {
  switch (f) {
    case 0: return mx::equal(a, b, s);
    case 1: return mx::not_equal(a, b, s);
    case 2: return mx::less(a, b, s);
    case 3: return mx::less_equal(a, b, s);
    case 4: return mx::greater(a, b, s);
    case 5: return mx::greater_equal(a, b, s);
  }
  throw std::invalid_argument("no such comparison");
}

array reduce(int64_t f, const array &x, const std::vector<int> &axes, mx::Stream s) {
  switch (f) {
    case 0: {
      // On a CPU, MLX adds one number after the other: a long row would lose half its digits.
      bool slow = s.device == mx::Device::cpu && x.dtype() == mx::float32;
      array y = mx::sum(slow ? mx::astype(x, mx::float64, s) : x, axes, true, s);
      return slow ? mx::astype(y, mx::float32, s) : y;
    }
    case 1: return mx::prod(x, axes, true, s);
    case 2: return mx::max(x, axes, true, s);
    case 3: return mx::min(x, axes, true, s);
  }
  throw std::invalid_argument("no such reduction");
}

// MLX multiplies floats only.
array matmul(const array &a, const array &b, mx::Stream s) {
  if (is_float(a)) return mx::matmul(a, b, s);
  array products = mx::multiply(mx::expand_dims(a, -1, s), mx::expand_dims(b, -3, s), s);
  return mx::sum(products, -2, false, s);
}

template <typename F>
array *guarded(const Args *args, F f) {
  try {
    Reader r(*args);
    return new array(f(r));
  } catch (const std::exception &e) {
    last_error = e.what();
  } catch (...) {
    last_error = "an unknown error";
  }
  return nullptr;
}

template <typename F>
int checked(F f) {
  try {
    f();
    return 0;
  } catch (const std::exception &e) {
    last_error = e.what();
  } catch (...) {
    last_error = "an unknown error";
  }
  return -1;
}

} // namespace

#define OPERATION(name, ...) \
  EXPORT array *frit_##name(const Args *args) { \
    return guarded(args, [](Reader &r) -> array __VA_ARGS__); \
  }

// Leaves, types and views.

OPERATION(cast, { return cast(r.x(0), dtype_of(r.integer()), r.s); })
OPERATION(bitcast, { return mx::view(mx::contiguous(r.x(0), false, r.s), dtype_of(r.integer()), r.s); })
OPERATION(count, {
  auto n = static_cast<double>(r.integer());
  return mx::arange(0.0, n, 1.0, dtype_of(r.integer()), r.s);
})
OPERATION(zeros, {
  auto t = dtype_of(r.integer());
  return mx::zeros(r.rest(), t, r.s);
})
OPERATION(contiguous, { return mx::contiguous(r.x(0), false, r.s); })
OPERATION(reshape, { return mx::reshape(r.x(0), r.rest(), r.s); })
OPERATION(transpose, { return mx::transpose(r.x(0), r.axes(), r.s); })
OPERATION(broadcast, { return mx::broadcast_to(r.x(0), r.rest(), r.s); })
OPERATION(slice, {
  auto n = r.x(0).ndim();
  auto start = r.shape(n), stop = r.shape(n), step = r.shape(n);
  return mx::slice(r.x(0), start, stop, step, r.s);
})
OPERATION(concat, { return mx::concatenate(r.all(), static_cast<int>(r.integer()), r.s); })
OPERATION(pad, {
  auto n = r.x(0).ndim();
  auto low = r.shape(n), high = r.shape(n);
  std::vector<int> axes;
  for (size_t i = 0; i < n; i++) axes.push_back(static_cast<int>(i));
  return mx::pad(r.x(0), axes, low, high, number(r.real(), r.x(0).dtype()), "constant", r.s);
})
OPERATION(take, { return mx::take(r.x(0), r.x(1), static_cast<int>(r.integer()), r.s); })
OPERATION(update, {
  return mx::slice_update(r.x(0), r.x(1), r.x(2), std::vector<int>{static_cast<int>(r.integer())}, r.s);
})
OPERATION(put_along, {
  return mx::put_along_axis(r.x(0), r.x(1), r.x(2), static_cast<int>(r.integer()), r.s);
})

// Arithmetic. The result has the type of the operand, whatever MLX would promote it to.

OPERATION(unary, {
  auto f = r.integer();
  auto y = unary(f, widened(r.x(0), r.s), r.s);
  return cast(y, r.x(0).dtype(), r.s);
})
OPERATION(binary, {
  auto f = r.integer();
  auto y = binary(f, widened(r.x(0), r.s), widened(r.x(1), r.s), r.s);
  return cast(y, r.x(0).dtype(), r.s);
})
OPERATION(compare, { return compare(r.integer(), r.x(0), r.x(1), r.s); })
OPERATION(select, { return mx::where(r.x(0), r.x(1), r.x(2), r.s); })
OPERATION(reduce, {
  auto f = r.integer();
  auto y = reduce(f, widened(r.x(0), r.s), r.axes(), r.s);
  return cast(y, r.x(0).dtype(), r.s);
})
OPERATION(argmax, {
  return mx::astype(mx::argmax(r.x(0), static_cast<int>(r.integer()), true, r.s), mx::int64, r.s);
})
OPERATION(cumsum, {
  auto y = mx::cumsum(widened(r.x(0), r.s), static_cast<int>(r.integer()), false, true, r.s);
  return cast(y, r.x(0).dtype(), r.s);
})
OPERATION(matmul, {
  auto y = matmul(widened(r.x(0), r.s), widened(r.x(1), r.s), r.s);
  return cast(y, r.x(0).dtype(), r.s);
})
OPERATION(any, { return mx::any(r.x(0), false, r.s); })
OPERATION(any_along, { return mx::any(r.x(0), static_cast<int>(r.integer()), true, r.s); })

// What MLX has a call of its own for.

OPERATION(rms_norm, {
  return mx::fast::rms_norm(r.x(0), r.maybe(1), static_cast<float>(r.real()), r.s);
})
OPERATION(layer_norm, {
  return mx::fast::layer_norm(r.x(0), r.maybe(1), r.maybe(2), static_cast<float>(r.real()), r.s);
})
OPERATION(rope, {
  auto dims = static_cast<int>(r.integer());
  bool interleaved = r.integer() != 0;
  auto freqs = r.maybe(2);
  auto base = static_cast<float>(r.real()), scale = static_cast<float>(r.real());
  std::optional<float> given_base = freqs ? std::nullopt : std::optional<float>(base);
  return mx::fast::rope(r.x(0), dims, interleaved, given_base, scale, r.x(1), freqs, r.s);
})
OPERATION(attention, {
  bool causal = r.integer() != 0;
  auto scale = static_cast<float>(r.real());
  return mx::fast::scaled_dot_product_attention(
      r.x(0), r.x(1), r.x(2), scale, causal ? "causal" : "", r.maybe(3), r.maybe(4), false, r.s);
})
OPERATION(einsum, { return mx::einsum(r.a.text, r.all(), r.s); })
OPERATION(quantized_matmul, {
  bool transposed = r.integer() != 0;
  int group = static_cast<int>(r.integer()), bits = static_cast<int>(r.integer());
  return mx::quantized_matmul(
      r.x(0), r.x(1), r.x(2), r.maybe(3), transposed, group, bits, "affine", r.s);
})
OPERATION(dequantize, {
  int group = static_cast<int>(r.integer()), bits = static_cast<int>(r.integer());
  return mx::dequantize(
      r.x(0), r.x(1), r.maybe(2), group, bits, "affine", std::nullopt, std::nullopt, r.s);
})
OPERATION(softmax, { return mx::softmax(r.x(0), static_cast<int>(r.integer()), true, r.s); })
OPERATION(product, { return mx::matmul(r.x(0), r.x(1), r.s); })
OPERATION(add_product, { return mx::addmm(r.x(0), r.x(1), r.x(2), 1.f, 1.f, r.s); })
OPERATION(conv1d, {
  int stride = static_cast<int>(r.integer()), padding = static_cast<int>(r.integer());
  int dilation = static_cast<int>(r.integer()), groups = static_cast<int>(r.integer());
  return mx::conv1d(r.x(0), r.x(1), stride, padding, dilation, groups, r.s);
})

// Arrays.

EXPORT void frit_free(array *x) { delete x; }

// Bytes that stay where they are, if the device can read them there, until `release(context)`.
EXPORT array *frit_from_bytes(
    const void *data, const int64_t *dims, size_t rank, int dtype,
    void (*release)(void *), void *context) {
  array *out = nullptr;
  bool owned = false;
  int failed = checked([&] {
    mx::Shape shape;
    for (size_t i = 0; i < rank; i++) shape.push_back(static_cast<int32_t>(dims[i]));
    auto type = dtype_of(dtype);
    auto done = [release, context](void *) { release(context); };
    owned = true;
    // MLX writes only over memory that it has allocated itself.
    out = new array(const_cast<void *>(data), std::move(shape), type, done);
  });
  if (failed && !owned) release(context);
  return out;
}

EXPORT int frit_dtype(const array *x) {
  int code = -1;
  checked([&] { code = code_of(x->dtype()); });
  return code;
}

EXPORT size_t frit_rank(const array *x) { return x->ndim(); }

EXPORT int64_t frit_dim(const array *x, size_t axis) {
  return axis < x->ndim() ? x->shape()[axis] : 0;
}

EXPORT array *frit_clone(const array *x) {
  array *out = nullptr;
  checked([&] { out = new array(*x); });
  return out;
}

// Graphs by mx::compile. `build(context, inputs, count, &out_count)` builds the graph over arrays
// that stand for the inputs; what it returns stays its own and is copied at once.

using Function = std::function<std::vector<array>(const std::vector<array> &)>;
using Build = array *const *(*)(void *, array *const *, size_t, size_t *);

EXPORT Function *frit_compile(Build build, void *context) {
  Function *out = nullptr;
  checked([&] {
    Function function = [build, context](const std::vector<array> &inputs) {
      std::vector<array> copies(inputs);
      std::vector<array *> pointers;
      for (auto &x : copies) pointers.push_back(&x);
      size_t count = 0;
      auto built = build(context, pointers.data(), pointers.size(), &count);
      if (!built) throw std::runtime_error("the graph could not be built");
      std::vector<array> outputs;
      for (size_t i = 0; i < count; i++) outputs.push_back(*built[i]);
      return outputs;
    };
    mx::enable_compile();
    out = new Function(mx::compile(std::move(function)));
  });
  return out;
}

// How many outputs there are, or -1.
EXPORT int64_t frit_call_compiled(
    Function *function, array *const *inputs, size_t count, array **out, size_t room) {
  int64_t made = -1;
  checked([&] {
    std::vector<array> arrays;
    for (size_t i = 0; i < count; i++) arrays.push_back(*inputs[i]);
    auto outputs = (*function)(arrays);
    if (outputs.size() > room) throw std::runtime_error("too many outputs");
    for (size_t i = 0; i < outputs.size(); i++) out[i] = new array(outputs[i]);
    made = static_cast<int64_t>(outputs.size());
  });
  return made;
}

EXPORT void frit_free_compiled(Function *function) { delete function; }

EXPORT int frit_eval(array *const *arrays, size_t count) {
  return checked([&] {
    std::vector<array> all;
    for (size_t i = 0; i < count; i++) all.push_back(*arrays[i]);
    mx::eval(std::move(all));
  });
}

// The elements of an evaluated array that is contiguous, on the host.
EXPORT const void *frit_data(array *x, size_t *bytes) {
  const void *data = nullptr;
  checked([&] {
    if (x->status() == array::Status::unscheduled) throw std::runtime_error("not evaluated");
    if (!x->flags().row_contiguous) throw std::runtime_error("the array is not contiguous");
    *bytes = x->nbytes();
    data = x->nbytes() ? x->data<uint8_t>() : nullptr;
  });
  return data;
}

// The machine.

EXPORT const char *frit_error() { return last_error.c_str(); }

EXPORT const char *frit_version() { return mx::version(); }

EXPORT int frit_devices(int gpu) {
  int count = 0;
  checked([&] {
    auto device = gpu ? mx::Device::gpu : mx::Device::cpu;
    count = mx::is_available(mx::Device(device)) ? mx::device_count(device) : 0;
  });
  return count;
}

// The name of a device; valid until the next call on this thread.
EXPORT const char *frit_device_name(int gpu) {
  static thread_local std::string name;
  name.clear();
  checked([&] {
    auto &info = mx::device_info(mx::Device(gpu ? mx::Device::gpu : mx::Device::cpu));
    auto found = info.find("device_name");
    if (found != info.end()) {
      if (auto *text = std::get_if<std::string>(&found->second)) name = *text;
    }
  });
  return name.c_str();
}

// To be called once by every thread before anything else.
EXPORT int frit_enter_thread(int gpu) {
  return checked([&] {
    mx::set_default_stream(stream_of(false));
    if (gpu) mx::set_default_stream(stream_of(true));
  });
}

EXPORT size_t frit_active_memory() { return mx::get_active_memory(); }
