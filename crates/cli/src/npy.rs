//! NumPy's files: `.npy`, one array, and `.npz`, a zip archive of them.
//!
//! Arrays come as values: integers narrower than 32 bits become `i32` and `uint64` becomes `i64`,
//! as in an ONNX graph. Files are not trusted: an archive may say that it unpacks to anything, so no
//! more is read than the header of an array asks for.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    path::Path,
};

use frit::graph::{DType, Spec, Value};
use zip::{CompressionMethod, ZipArchive, ZipWriter, write::SimpleFileOptions};

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// Longer headers are refused; NumPy writes some hundred bytes.
const MAX_HEADER: usize = 1 << 16;
/// Larger arrays are refused.
const MAX_BYTES: usize = 1 << 40;

/// What keeps an array from being read or written.
#[derive(Debug, thiserror::Error)]
pub enum NpyError {
    /// The operating system refused, or the file ends too early.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The archive is damaged.
    #[error("{0}")]
    Zip(#[from] zip::result::ZipError),
    /// It is no array that is read here.
    #[error("{0}")]
    Format(String),
}

/// Reads one array.
///
/// # Errors
/// When the file is no array, is cut, or has elements of a type that is not read.
pub fn read_npy(path: &Path) -> Result<Value, NpyError> {
    parse(&mut io::BufReader::new(File::open(path)?))
}

/// Reads all arrays of an archive in its order, by their names without `.npy`.
///
/// # Errors
/// As [`read_npy`], with the name of the array.
pub fn read_npz(path: &Path) -> Result<Vec<(String, Value)>, NpyError> {
    unpack(File::open(path)?)
}

fn unpack(file: impl Read + Seek) -> Result<Vec<(String, Value)>, NpyError> {
    let mut archive = ZipArchive::new(file)?;
    let mut all = Vec::new();
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i)?;
        let name = entry.name().strip_suffix(".npy").unwrap_or(entry.name()).to_string();
        let value =
            parse(&mut entry).map_err(|e| NpyError::Format(format!("array `{name}`: {e}")))?;
        all.push((name, value));
    }
    Ok(all)
}

/// How the elements of a file become those of a value.
struct Elements {
    dtype: DType,
    /// Bytes of an element in the file.
    size: usize,
    signed: bool,
}

fn elements(descr: &str) -> Option<Elements> {
    let of = |dtype, size, signed| Some(Elements { dtype, size, signed });
    match descr.trim_start_matches(['<', '|', '=']) {
        "f8" => of(DType::F64, 8, true),
        "f4" => of(DType::F32, 4, true),
        "f2" => of(DType::F16, 2, true),
        "i8" => of(DType::I64, 8, true),
        "u8" => of(DType::I64, 8, false),
        "i4" => of(DType::I32, 4, true),
        "u4" => of(DType::U32, 4, false),
        "i2" => of(DType::I32, 2, true),
        "u2" => of(DType::I32, 2, false),
        "i1" => of(DType::I32, 1, true),
        "u1" => of(DType::U8, 1, false),
        "b1" => of(DType::Bool, 1, false),
        _ => None,
    }
}

fn parse(from: &mut impl Read) -> Result<Value, NpyError> {
    let wrong = |what: &str| NpyError::Format(format!("no NumPy array: {what}"));
    let mut start = [0; 8];
    from.read_exact(&mut start)?;
    if !start.starts_with(MAGIC) {
        return Err(wrong("it starts with other bytes"));
    }
    let length = match start[6] {
        1 => {
            let mut n = [0; 2];
            from.read_exact(&mut n)?;
            usize::from(u16::from_le_bytes(n))
        }
        _ => {
            let mut n = [0; 4];
            from.read_exact(&mut n)?;
            u32::from_le_bytes(n) as usize
        }
    };
    if length > MAX_HEADER {
        return Err(wrong("its header is too long"));
    }
    let mut header = vec![0; length];
    from.read_exact(&mut header)?;
    let header = String::from_utf8(header).map_err(|_| wrong("its header is no text"))?;
    let descr = after(&header, "'descr':").and_then(|h| h.strip_prefix('\''));
    let descr = descr.and_then(|h| h.split_once('\'')).ok_or_else(|| wrong("it has no type"))?.0;
    let Some(kind) = elements(descr) else {
        return Err(NpyError::Format(format!("elements of type {descr:?} are not read")));
    };
    let order = after(&header, "'fortran_order':").ok_or_else(|| wrong("it has no order"))?;
    let shape = after(&header, "'shape':").and_then(|h| h.strip_prefix('('));
    let shape = shape.and_then(|h| h.split_once(')')).ok_or_else(|| wrong("it has no shape"))?.0;
    let extents = shape.split(',').map(str::trim).filter(|n| !n.is_empty());
    let extents = extents.map(|n| n.parse().map_err(|_| wrong("its shape is no shape")));
    let spec = Spec::new(kind.dtype, extents.collect::<Result<Vec<usize>, _>>()?);
    let bytes = spec.checked_numel().and_then(|n| n.checked_mul(kind.size));
    let Some(bytes) = bytes.filter(|&b| b <= MAX_BYTES) else {
        return Err(NpyError::Format(format!("an array of {spec} is too large")));
    };
    if order.starts_with("True") && spec.rank() > 1 {
        let message = "its columns come first: save it by numpy.ascontiguousarray".into();
        return Err(NpyError::Format(message));
    }
    let mut data = Vec::new();
    from.take(bytes as u64).read_to_end(&mut data)?;
    if data.len() != bytes {
        return Err(NpyError::Format(format!("{spec} needs {bytes} bytes, got {}", data.len())));
    }
    if kind.size < spec.dtype.size() {
        data = widened(&data, &kind);
    }
    Value::from_bytes(spec, &data).map_err(|e| NpyError::Format(e.to_string()))
}

/// What follows a key of the header.
fn after<'h>(header: &'h str, key: &str) -> Option<&'h str> {
    Some(header.split_once(key)?.1.trim_start())
}

fn widened(data: &[u8], kind: &Elements) -> Vec<u8> {
    let number = |chunk: &[u8]| -> i32 {
        let low = i32::from(chunk[0]);
        let bits = low | chunk.get(1).map_or(0, |&high| i32::from(high) << 8);
        let shift = 32 - 8 * kind.size as u32;
        if kind.signed { bits << shift >> shift } else { bits }
    };
    data.chunks(kind.size).flat_map(|c| number(c).to_le_bytes()).collect()
}

/// Writes arrays to an archive.
///
/// # Errors
/// When the file cannot be written, or an array is of a type that NumPy has not (bf16).
pub fn write_npz(path: &Path, arrays: &[(&str, &Value)]) -> Result<(), NpyError> {
    pack(File::create(path)?, arrays)
}

fn pack(file: impl Write + Seek, arrays: &[(&str, &Value)]) -> Result<(), NpyError> {
    let mut archive = ZipWriter::new(file);
    let stored =
        SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(true);
    for (name, value) in arrays {
        archive.start_file(format!("{name}.npy"), stored)?;
        archive.write_all(&header(value)?)?;
        archive.write_all(value.bytes())?;
    }
    archive.finish()?;
    Ok(())
}

fn header(value: &Value) -> Result<Vec<u8>, NpyError> {
    let descr = match value.dtype() {
        DType::F64 => "<f8",
        DType::F32 => "<f4",
        DType::F16 => "<f2",
        DType::I64 => "<i8",
        DType::I32 => "<i4",
        DType::U32 => "<u4",
        DType::U8 => "|u1",
        DType::Bool => "|b1",
        other => return Err(NpyError::Format(format!("NumPy has no type {other}"))),
    };
    let extents: String = value.shape().iter().map(|n| format!("{n}, ")).collect();
    let mut text =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({extents}), }}");
    // The elements start at a multiple of 64 bytes.
    let padding = 63 - (10 + text.len()) % 64;
    text.extend(std::iter::repeat_n(' ', padding));
    text.push('\n');
    let length = u16::try_from(text.len())
        .map_err(|_| NpyError::Format(format!("too many axes: {}", value.spec())))?;
    let mut bytes = MAGIC.to_vec();
    bytes.extend([1, 0]);
    bytes.extend(length.to_le_bytes());
    bytes.extend(text.as_bytes());
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn array(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1, 0]);
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    #[test]
    fn what_is_written_is_read_again() {
        let a = Value::new([2, 2], vec![1.5f32, -2.0, 3.0, 4.0]).expect("a value");
        let b = Value::new([3], vec![-1i64, 0, 7]).expect("a value");
        let c = Value::bools([], &[true]).expect("a value");
        let mut file = Cursor::new(Vec::new());
        pack(&mut file, &[("a", &a), ("b.c", &b), ("c", &c)]).expect("written");
        let all = unpack(Cursor::new(file.into_inner())).expect("read");
        assert_eq!(all, [("a".into(), a), ("b.c".into(), b), ("c".into(), c)]);
    }

    #[test]
    fn narrow_integers_are_widened_with_their_sign() {
        let file = array("{'descr': '|i1', 'fortran_order': False, 'shape': (2,), }", &[0xff, 5]);
        let value = parse(&mut &file[..]).expect("read");
        assert_eq!(value.slice::<i32>().expect("i32"), [-1, 5]);
        let file =
            array("{'descr': '<u2', 'fortran_order': False, 'shape': (1,), }", &[0xff, 0xff]);
        assert_eq!(parse(&mut &file[..]).expect("read").slice::<i32>().expect("i32"), [65535]);
    }

    #[test]
    fn damaged_arrays_are_errors() {
        let whole = array("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", &[0; 4]);
        assert!(parse(&mut &whole[..]).is_ok());
        for cut in 0..whole.len() {
            assert!(parse(&mut &whole[..cut]).is_err(), "cut at {cut}");
        }
        for header in [
            "{'descr': '>f4', 'fortran_order': False, 'shape': (1,), }",
            "{'descr': '|S3', 'fortran_order': False, 'shape': (1,), }",
            "{'descr': '<f4', 'fortran_order': True, 'shape': (1, 1), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1152921504606846976, 8), }",
            "{'descr': '<f4', 'fortran_order': False}",
        ] {
            assert!(parse(&mut &array(header, &[0; 4])[..]).is_err(), "{header}");
        }
    }
}
