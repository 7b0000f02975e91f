//! A `google.protobuf.Struct` as Envoy hands it to filters: in its wire form, undecoded.
//!
//! Its one rule: bytes that are not exactly one Struct are none at all.
//! It does not know what the document says.

use serde_json::{Map, Number, Value};

/// Reads the wire form of a Struct; none where the bytes are not one.
pub fn parse_struct(bytes: &[u8]) -> Option<Value> {
    read_struct(bytes, MAX_DEPTH)
}

/// As deep as serde_json goes.
const MAX_DEPTH: u32 = 128;

/// `message Struct { map<string, Value> fields = 1; }`, where a map is a list of `{ key = 1; value = 2; }`.
fn read_struct(bytes: &[u8], depth: u32) -> Option<Value> {
    let depth = depth.checked_sub(1)?;
    let mut members = Map::new();
    for field in fields(bytes) {
        let Field::Bytes(1, entry) = field? else { return None };
        let (mut name, mut member) = (String::new(), Value::Null);
        for field in fields(entry) {
            match field? {
                Field::Bytes(1, text) => name = String::from_utf8(text.to_vec()).ok()?,
                Field::Bytes(2, value) => member = read_value(value, depth)?,
                _ => return None,
            }
        }
        members.insert(name, member);
    }
    Some(Value::Object(members))
}

/// `message Value { oneof kind { null = 1; double = 2; string = 3; bool = 4; Struct = 5; ListValue = 6; } }`
fn read_value(bytes: &[u8], depth: u32) -> Option<Value> {
    let mut value = Value::Null;
    for field in fields(bytes) {
        value = match field? {
            Field::Varint(1, _) => Value::Null,
            Field::Double(2, number) => Value::Number(Number::from_f64(number)?),
            Field::Bytes(3, text) => Value::String(String::from_utf8(text.to_vec()).ok()?),
            Field::Varint(4, flag) => Value::Bool(flag != 0),
            Field::Bytes(5, members) => read_struct(members, depth)?,
            Field::Bytes(6, list) => read_list(list, depth)?,
            _ => return None,
        };
    }
    Some(value)
}

/// `message ListValue { repeated Value values = 1; }`
fn read_list(bytes: &[u8], depth: u32) -> Option<Value> {
    let depth = depth.checked_sub(1)?;
    let items = fields(bytes).map(|field| match field? {
        Field::Bytes(1, value) => read_value(value, depth),
        _ => None,
    });
    items.collect::<Option<Vec<_>>>().map(Value::Array)
}

/// A field by its number and what it holds.
enum Field<'a> {
    Bytes(u64, &'a [u8]),
    Double(u64, f64),
    Varint(u64, u64),
}

/// The fields of a message; ends after one that cannot be read.
fn fields(bytes: &[u8]) -> impl Iterator<Item = Option<Field<'_>>> {
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let bytes = rest.filter(|bytes| !bytes.is_empty())?;
        let read = read_field(bytes);
        rest = read.as_ref().map(|(_, rest)| *rest);
        Some(read.map(|(field, _)| field))
    })
}

fn read_field(bytes: &[u8]) -> Option<(Field<'_>, &[u8])> {
    let (tag, rest) = read_varint(bytes)?;
    let (number, wire_type) = (tag >> 3, tag & 7);
    match wire_type {
        0 => read_varint(rest).map(|(value, rest)| (Field::Varint(number, value), rest)),
        1 => {
            let (value, rest) = rest.split_first_chunk()?;
            Some((Field::Double(number, f64::from_le_bytes(*value)), rest))
        }
        2 => {
            let (len, rest) = read_varint(rest)?;
            let (value, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
            Some((Field::Bytes(number, value), rest))
        }
        _ => None,
    }
}

/// Seven bits a byte, least significant first; the top bit says that there is more.
fn read_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f).checked_shl(7 * index as u32)?;
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(index + 1..)?));
        }
    }
    None
}
