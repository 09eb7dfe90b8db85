//! A strict walk over the protobuf wire format, before anything is parsed.
//!
//! The parser behind it accepts nested messages that are cut short and recurses into groups without a limit
//! (RUSTSEC-2024-0437). What passes here is whole: every length lies within its message, every known field has its wire
//! type, messages are nested no deeper than [`DEPTH`], and there are no groups. Unknown fields are skipped, as the format asks.
//!
//! Wire format: <https://protobuf.dev/programming-guides/encoding/>. Field numbers: `onnx.proto`, IR version 14.

/// Deepest nesting of messages. A model without sub-graphs needs 6.
const DEPTH: usize = 64;

/// A message of `onnx.proto`, as far as its fields are messages or numbers.
#[derive(Clone, Copy)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Segment,
    SparseTensor,
    ValueInfo,
    Type,
    TypeTensor,
    TypeElement,
    TypeMap,
    Shape,
    Dimension,
    OperatorSet,
    Function,
    Entry,
    Training,
    Annotation,
}

/// What a field holds.
#[derive(Clone, Copy)]
enum Field {
    Message(Message),
    /// Text or bytes.
    Bytes,
    Varint,
    Fixed32,
    /// Numbers, packed or one by one.
    Varints,
    Fixed32s,
    Fixed64s,
}

impl Message {
    /// The field with this number, if it is known.
    fn field(self, number: u32) -> Option<Field> {
        use Field::{Bytes, Fixed32, Fixed32s, Fixed64s, Varint, Varints};
        use Message as M;
        Some(match (self, number) {
            (M::Model, 1 | 5) => Varint,
            (M::Model, 2 | 3 | 4 | 6) => Bytes,
            (M::Model, 7) => Field::Message(M::Graph),
            (M::Model, 8) => Field::Message(M::OperatorSet),
            (M::Model, 14) => Field::Message(M::Entry),
            (M::Model, 20) => Field::Message(M::Training),
            (M::Model, 25) => Field::Message(M::Function),
            (M::Graph, 1) => Field::Message(M::Node),
            (M::Graph, 2 | 10) => Bytes,
            (M::Graph, 5) => Field::Message(M::Tensor),
            (M::Graph, 11..=13) => Field::Message(M::ValueInfo),
            (M::Graph, 14) => Field::Message(M::Annotation),
            (M::Graph, 15) => Field::Message(M::SparseTensor),
            (M::Graph, 16) => Field::Message(M::Entry),
            (M::Node, 1..=4 | 6..=8) => Bytes,
            (M::Node, 5) => Field::Message(M::Attribute),
            (M::Node, 9) => Field::Message(M::Entry),
            (M::Attribute, 1 | 4 | 9 | 13 | 21) => Bytes,
            (M::Attribute, 2) => Fixed32,
            (M::Attribute, 3 | 20) => Varint,
            (M::Attribute, 5 | 10) => Field::Message(M::Tensor),
            (M::Attribute, 6 | 11) => Field::Message(M::Graph),
            (M::Attribute, 7) => Fixed32s,
            (M::Attribute, 8) => Varints,
            (M::Attribute, 14 | 15) => Field::Message(M::Type),
            (M::Attribute, 22 | 23) => Field::Message(M::SparseTensor),
            (M::Tensor, 1 | 5 | 7 | 11) => Varints,
            (M::Tensor, 2 | 14) => Varint,
            (M::Tensor, 3) => Field::Message(M::Segment),
            (M::Tensor, 4) => Fixed32s,
            (M::Tensor, 6 | 8 | 9 | 12) => Bytes,
            (M::Tensor, 10) => Fixed64s,
            (M::Tensor, 13 | 16) => Field::Message(M::Entry),
            (M::Segment, 1 | 2) => Varint,
            (M::SparseTensor, 1 | 2) => Field::Message(M::Tensor),
            (M::SparseTensor, 3) => Varints,
            (M::ValueInfo, 1 | 3) => Bytes,
            (M::ValueInfo, 2) => Field::Message(M::Type),
            (M::ValueInfo, 4) => Field::Message(M::Entry),
            (M::Type, 1 | 8) => Field::Message(M::TypeTensor),
            (M::Type, 4 | 9) => Field::Message(M::TypeElement),
            (M::Type, 5) => Field::Message(M::TypeMap),
            (M::Type, 6) => Bytes,
            (M::TypeTensor, 1) | (M::TypeMap, 1) => Varint,
            (M::TypeTensor, 2) => Field::Message(M::Shape),
            (M::TypeElement, 1) | (M::TypeMap, 2) => Field::Message(M::Type),
            (M::Shape, 1) => Field::Message(M::Dimension),
            (M::Dimension, 1) => Varint,
            (M::Dimension, 2 | 3) => Bytes,
            (M::OperatorSet, 1) => Bytes,
            (M::OperatorSet, 2) => Varint,
            (M::Function, 1 | 4 | 5 | 6 | 8 | 10 | 13) => Bytes,
            (M::Function, 7) => Field::Message(M::Node),
            (M::Function, 9) => Field::Message(M::OperatorSet),
            (M::Function, 11) => Field::Message(M::Attribute),
            (M::Function, 12) => Field::Message(M::ValueInfo),
            (M::Function, 14) => Field::Message(M::Entry),
            (M::Entry, 1 | 2) => Bytes,
            (M::Training, 1 | 2) => Field::Message(M::Graph),
            (M::Training, 3 | 4) => Field::Message(M::Entry),
            (M::Annotation, 1) => Bytes,
            (M::Annotation, 2) => Field::Message(M::Entry),
            _ => return None,
        })
    }
}

impl Field {
    /// True if the field may be written with this wire type.
    fn accepts(self, wire: u64) -> bool {
        match self {
            Field::Message(_) | Field::Bytes => wire == LENGTH,
            Field::Varint => wire == VARINT,
            Field::Fixed32 => wire == FIXED32,
            Field::Varints => wire == VARINT || wire == LENGTH,
            Field::Fixed32s => wire == FIXED32 || wire == LENGTH,
            Field::Fixed64s => wire == FIXED64 || wire == LENGTH,
        }
    }
}

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH: u64 = 2;
const FIXED32: u64 = 5;

/// Memory of a parsed message beside what its fields hold, in bytes. Those of a tensor, the greatest, take as much.
const MESSAGE_BYTES: u64 = 400;
/// Memory of a parsed text or number of a list beside what it holds.
const FIELD_BYTES: u64 = 24;

/// What a model takes when it is parsed.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Size {
    /// Bytes in memory.
    pub(crate) bytes: u64,
    /// Messages: nodes, attributes, tensors, types and extents of values, and others.
    pub(crate) messages: u64,
}

/// Says what is wrong with the bytes of a model and where, if anything is; else what it takes when it is parsed.
pub(crate) fn check(bytes: &[u8]) -> Result<Size, String> {
    let mut parsed = Size { bytes: bytes.len() as u64, messages: 0 };
    walk(&mut Cursor { bytes, at: 0, end: bytes.len() }, Message::Model, 0, &mut parsed)?;
    Ok(parsed)
}

/// The same of a file that holds one tensor.
pub(crate) fn check_tensor(bytes: &[u8]) -> Result<(), String> {
    walk(&mut Cursor { bytes, at: 0, end: bytes.len() }, Message::Tensor, 0, &mut Size::default())
}

/// A part of the file. Positions are those of the file, for messages.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Cursor<'a> {
    fn fault<T>(&self, what: &str) -> Result<T, String> {
        Err(format!("at byte {}: {what}", self.at))
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let Some(&byte) = self.bytes.get(self.at).filter(|_| self.at < self.end) else {
                return self.fault("a number is cut short");
            };
            if shift == 63 && byte > 1 {
                return self.fault("a number exceeds 64 bits");
            }
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        self.fault("a number exceeds 64 bits")
    }

    /// The next `length` bytes as a part of their own.
    fn part(&mut self, length: u64) -> Result<Cursor<'a>, String> {
        match usize::try_from(length) {
            Ok(n) if n <= self.end - self.at => {
                let part = Cursor { bytes: self.bytes, at: self.at, end: self.at + n };
                self.at += n;
                Ok(part)
            }
            _ => self.fault(&format!("a field of {length} bytes, but only {} are left", self.end - self.at)),
        }
    }
}

fn walk(cursor: &mut Cursor, message: Message, depth: usize, parsed: &mut Size) -> Result<(), String> {
    parsed.bytes += MESSAGE_BYTES;
    parsed.messages += 1;
    if depth > DEPTH {
        return cursor.fault(&format!("messages are nested more than {DEPTH} deep"));
    }
    while cursor.at < cursor.end {
        let start = cursor.at;
        let key = cursor.varint()?;
        let (number, wire) = (u32::try_from(key >> 3).unwrap_or(0), key & 7);
        if number == 0 || number >= 1 << 29 {
            cursor.at = start;
            return cursor.fault("this is no field of a message");
        }
        let field = message.field(number);
        if matches!(wire, 3 | 4) {
            cursor.at = start;
            return cursor.fault("groups are not part of the ONNX format");
        }
        if field.is_some_and(|f| !f.accepts(wire)) {
            cursor.at = start;
            return cursor.fault(&format!("field {number} has wire type {wire}, which it cannot have"));
        }
        parsed.bytes += FIELD_BYTES;
        match wire {
            VARINT => {
                cursor.varint()?;
            }
            FIXED32 => {
                cursor.part(4)?;
            }
            FIXED64 => {
                cursor.part(8)?;
            }
            LENGTH => {
                let length = cursor.varint()?;
                let mut part = cursor.part(length)?;
                match field {
                    Some(Field::Message(inner)) => walk(&mut part, inner, depth + 1, parsed)?,
                    Some(Field::Varints) => {
                        while part.at < part.end {
                            part.varint()?;
                            // At most 8 bytes of one.
                            parsed.bytes += 7;
                        }
                    }
                    Some(Field::Fixed32s) if length % 4 != 0 => return part.fault("a list of floats is cut short"),
                    Some(Field::Fixed64s) if length % 8 != 0 => return part.fault("a list of doubles is cut short"),
                    _ => {}
                }
            }
            _ => {
                cursor.at = start;
                return cursor.fault(&format!("there is no wire type {wire}"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_messages_pass() {
        // ir_version = 8, graph { name = "g", node {} }, an unknown field of each wire type.
        let bytes = [0x08, 8, 0x3a, 5, 0x12, 1, b'g', 0x0a, 0, 0xf8, 0x06, 1, 0xfd, 0x06, 0, 0, 0, 0, 0xfa, 0x06, 1, 0];
        assert!(check(&bytes).is_ok_and(|parsed| parsed.bytes > 2 * MESSAGE_BYTES && parsed.messages == 3));
        assert_eq!(check(&[]), Ok(Size { bytes: MESSAGE_BYTES, messages: 1 }));
    }

    #[test]
    fn faults_are_named() {
        for (bytes, text) in [
            (&b"# Title\n"[..], "groups"),
            (&[0x3a, 200], "cut short"),
            (&[0x3a, 20, 0], "a field of 20 bytes"),
            (&[0x3a, 3, 0x0a, 5, 0], "a field of 5 bytes"),
            (&[0x3a, 2, 0x0a], "a field of 2 bytes"),
            (&[0x38, 1], "field 7 has wire type 0"),
            (&[0xfb, 0x06], "groups"),
            (&[0xfe, 0x06], "no wire type 6"),
            (&[0x02, 0], "no field"),
            (&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], "64 bits"),
        ] {
            let fault = check(bytes).expect_err("must be refused");
            assert!(fault.contains(text), "{bytes:?}: {fault}");
        }
    }

    #[test]
    fn nesting_is_limited() {
        // type { sequence { type { sequence ..
        let mut bytes = Vec::new();
        for i in 0..200usize {
            let mut outer = vec![if i % 2 == 0 { 0x0a } else { 0x22 }];
            let mut n = bytes.len();
            while n >= 0x80 {
                outer.push(n.to_le_bytes()[0] | 0x80);
                n >>= 7;
            }
            outer.push(n.to_le_bytes()[0]);
            outer.extend(bytes);
            bytes = outer;
        }
        let mut cursor = Cursor { bytes: &bytes, at: 0, end: bytes.len() };
        assert!(walk(&mut cursor, Message::Type, 0, &mut Size::default()).is_err_and(|e| e.contains("64 deep")));
    }
}
