//! JSON as documents and request bodies bring it: read strictly, and written in the one form of RFC 8785.
//!
//! Its one rule: an object that has a member twice is not read, because no reader can tell which of the two counts.
//! It does not know what any member means.

use std::borrow::Cow;
use std::collections::BinaryHeap;
use std::fmt;

use serde_core::Serialize;
use serde_core::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Value};

/// Where in a document a value stands, as a chain up to the root; shown as a JSON Pointer (RFC 6901).
#[derive(Clone, Copy)]
pub enum Path<'a> {
    /// The whole document, whose pointer is empty.
    Root,
    /// A member of the object that stands there.
    Member(&'a Path<'a>, &'a str),
    /// An item of the list that stands there.
    Item(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Item(up, index) => write!(f, "{up}/{index}"),
            Path::Member(up, name) => {
                write!(f, "{up}/")?;
                name.chars().try_for_each(|char| match char {
                    '~' => f.write_str("~0"),
                    '/' => f.write_str("~1"),
                    // A message is one line, whatever the document holds.
                    char if char.is_control() => write!(f, "{}", char.escape_default()),
                    char => write!(f, "{char}"),
                })
            }
        }
    }
}

/// Reads one JSON text.
///
/// # Errors
/// It is not JSON, is nested deeper than 127 levels, or has a number that no double comes near; or, as an error about
/// data, an object has a member twice: then the text of the error is the member's pointer and what is wrong with it.
pub fn parse(text: &[u8]) -> serde_json::Result<Value> {
    let mut source = serde_json::Deserializer::from_slice(text);
    let value = Unrepeated(Path::Root).deserialize(&mut source)?;
    source.end().map(|()| value)
}

/// The canonical form of a value (RFC 8785).
pub fn canonical(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write(value, &mut out);
    out
}

fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                out.push(if index == 0 { b'[' } else { b',' });
                write(item, out);
            }
            out.extend_from_slice(if items.is_empty() { b"[]" } else { b"]" });
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            // They come in the order of their bytes; "sorting is based on the UTF-16 code unit" (section 3.2.3), which puts
            // U+FB33 behind U+1F600.
            if !members.iter().all(|(name, _)| name.is_ascii()) {
                let units = members.iter().map(|(name, _)| name.encode_utf16().collect::<Vec<_>>());
                // A heap, whose code is a fifth of what `sort` brings with it.
                let order = units.zip(0..).collect::<BinaryHeap<(_, usize)>>().into_sorted_vec();
                members = order.into_iter().filter_map(|(_, index)| members.get(index).copied()).collect();
            }
            for (index, (name, value)) in members.iter().enumerate() {
                out.push(if index == 0 { b'{' } else { b',' });
                text(name.as_str(), out);
                out.push(b':');
                write(value, out);
            }
            out.extend_from_slice(if members.is_empty() { b"{}" } else { b"}" });
        }
        Value::Number(number) => out.extend_from_slice(ecmascript(&number.to_string()).as_bytes()),
        plain => text(plain, out),
    }
}

/// serde_json writes strings as section 3.2.2.2 wants them; into memory it does not fail.
fn text(plain: impl Serialize, out: &mut Vec<u8>) {
    let _ = serde_json::to_writer(out, &plain);
}

/// A number in the shortest digits that tell its double from all others, laid out as ECMAScript has it
/// (Number::toString, which section 3.2.2.3 refers to).
fn ecmascript(shortest: &str) -> Cow<'_, str> {
    // Both lay it out alike with a large power, and without one, but for the point of a whole double.
    match shortest.split_once('e').map(|(_, power)| power.parse::<i64>().unwrap_or(0)) {
        None => {
            let text = shortest.strip_suffix(".0").unwrap_or(shortest);
            return Cow::Borrowed(if text == "-0" { "0" } else { text });
        }
        Some(21.. | ..-6) => return Cow::Borrowed(shortest),
        Some(_) => {}
    }
    let Some((digits, power)) = decimal(shortest).filter(|(digits, _)| !digits.is_empty()) else {
        return Cow::Borrowed("0");
    };
    let sign = if shortest.starts_with('-') { "-" } else { "" };
    let count = digits.len() as i64;
    // Where the point stands, counted from the first digit.
    let point = count + power;
    let zeros = |count: i64| "0".repeat(count.unsigned_abs() as usize);
    let text = match (point, digits.split_at_checked(point.max(0) as usize)) {
        (_, Some((whole, fraction))) if (1..count).contains(&point) => format!("{whole}.{fraction}"),
        (1..=21, _) => format!("{digits}{}", zeros(power)),
        (-5..=0, _) => format!("0.{}{digits}", zeros(point)),
        _ => {
            let (first, rest) = digits.split_at_checked(1).unwrap_or((&digits, ""));
            let dot = if rest.is_empty() { "" } else { "." };
            format!("{first}{dot}{rest}e{:+}", point - 1)
        }
    };
    Cow::Owned(format!("{sign}{text}"))
}

/// Whether every number of a JSON text stays the number it is when it is read as a double and written again.
///
/// serde_json may read a number of 16 digits and more, or one far from 1, as a neighbour of its double: then it counts
/// as changed too.
pub fn is_exact(text: &[u8]) -> bool {
    numbers(text).filter(|number| !is_short(number)).all(|number| {
        let double = parse(number).ok().and_then(|number| number.as_f64());
        let written = double.map(|double| Value::from(double).to_string());
        let tells = |written: String| {
            written.as_bytes() == number
                || std::str::from_utf8(number).is_ok_and(|number| decimal(number) == decimal(&written))
        };
        written.is_some_and(tells)
    })
}

/// Whether a number has so few digits, and is so near to 1, that its double is known to tell it: 15 digits go into a double
/// and come out of it, and up to ten to the 22nd a double is that power itself, so that reading rounds once.
fn is_short(number: &[u8]) -> bool {
    number.len() <= 16
        && number.iter().filter(|byte| byte.is_ascii_digit()).count() <= 15
        && !number.contains(&b'e')
        && !number.contains(&b'E')
}

/// A place in JSON bodies (RFC 6901), never the whole of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer(String);

impl Pointer {
    /// Reads a pointer such as `/order/id`; none where it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let is_escaped = text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
        (text.starts_with('/') && is_escaped).then(|| Pointer(text.to_owned()))
    }

    /// What stands there: one value or none, or that of each element of a list where it says `-`.
    ///
    /// "the (nonexistent) member after the last array element" (RFC 6901, section 4), so that no pointer has a use for it.
    pub fn find<'v>(&self, document: &'v Value) -> Found<'v> {
        let mut found = Found { is_of_each: false, values: Vec::new() };
        find(&self.segments(), document, &mut found);
        found
    }

    /// Takes members away; an item of a list becomes null, so that those behind it keep their places.
    pub fn remove_from(&self, value: &mut Value) {
        remove(&self.segments(), value);
    }

    fn segments(&self) -> Vec<String> {
        self.0.split('/').skip(1).map(|segment| segment.replace("~1", "/").replace("~0", "~")).collect()
    }
}

/// What stands where a pointer points.
#[derive(Debug, PartialEq, Eq)]
pub struct Found<'v> {
    /// Whether there is a value, or none, for each element of a list; else there is exactly one, or none.
    pub is_of_each: bool,
    /// In order.
    pub values: Vec<Option<&'v Value>>,
}

/// Walks once and writes nothing down, so that a list of many elements costs little more than to read it.
fn find<'v>(place: &[String], value: &'v Value, found: &mut Found<'v>) {
    let Some((here, below)) = place.split_first() else { return found.values.push(Some(value)) };
    let next = match value {
        Value::Array(items) if here == EACH => {
            found.is_of_each = true;
            return items.iter().for_each(|item| find(below, item, found));
        }
        Value::Array(items) => index(here).and_then(|index| items.get(index)),
        Value::Object(members) => members.get(here),
        _ => None,
    };
    match next {
        Some(value) => find(below, value, found),
        None => found.values.push(None),
    }
}

fn remove(place: &[String], value: &mut Value) {
    let Some((here, below)) = place.split_first() else { return };
    let next = match value {
        Value::Array(items) if here == EACH && below.is_empty() => return items.fill(Value::Null),
        Value::Array(items) if here == EACH => return items.iter_mut().for_each(|item| remove(below, item)),
        Value::Array(items) => index(here).and_then(|index| items.get_mut(index)),
        Value::Object(members) if below.is_empty() => {
            members.remove(here);
            None
        }
        Value::Object(members) => members.get_mut(here),
        _ => None,
    };
    match next {
        Some(item) if below.is_empty() => *item = Value::Null,
        Some(value) => remove(below, value),
        None => {}
    }
}

/// "characters comprised of digits ... without leading zeros" (RFC 6901, section 4).
fn index(segment: &str) -> Option<usize> {
    segment.parse().ok().filter(|_| segment == "0" || !segment.starts_with(['0', '+']))
}

/// The segment that stands for each element of a list.
const EACH: &str = "-";

/// As it was written.
impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The numbers of a valid JSON text, as they are written.
fn numbers(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (mut in_string, mut escaped) = (false, false);
        let start = rest.iter().position(|byte| {
            let is_escaped = std::mem::take(&mut escaped);
            match byte {
                b'\\' => escaped = in_string && !is_escaped,
                b'"' => in_string ^= !is_escaped,
                _ => {}
            }
            !in_string && (byte.is_ascii_digit() || *byte == b'-')
        })?;
        let token = rest.get(start..)?;
        let end = token.iter().position(|byte| !b"0123456789+-.eE".contains(byte)).unwrap_or(token.len());
        let (number, left) = token.split_at_checked(end)?;
        rest = left;
        Some(number)
    })
}

/// A JSON number as its significant digits and the power of ten they are multiplied with, without its sign; zero has
/// no digits.
fn decimal(number: &str) -> Option<(Cow<'_, str>, i64)> {
    let text = number.trim_start_matches('-');
    let (mantissa, power) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let significant = match (whole.trim_start_matches('0'), fraction.trim_end_matches('0')) {
        (whole, "") => Cow::Borrowed(whole.trim_end_matches('0')),
        ("", fraction) => Cow::Borrowed(fraction.trim_start_matches('0')),
        (whole, fraction) => Cow::Owned([whole, fraction].concat()),
    };
    if significant.is_empty() {
        return Some((Cow::Borrowed(""), 0));
    }
    let zeros = match fraction.trim_end_matches('0') {
        "" => (whole.len() - whole.trim_end_matches('0').len()) as i64,
        fraction => -(fraction.len() as i64),
    };
    Some((significant, power.parse::<i64>().ok()?.checked_add(zeros)?))
}

/// Reads any value in which no object has a member twice; serde_json itself would keep the last in silence.
struct Unrepeated<'a>(Path<'a>);

impl<'de> DeserializeSeed<'de> for Unrepeated<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Value, D::Error> {
        source.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unrepeated<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::from(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::from(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::from(number))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::from(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::from(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut source: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = source.next_element_seed(Unrepeated(Path::Item(&self.0, items.len())))? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut source: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = source.next_key::<String>()? {
            match members.entry(name) {
                Entry::Occupied(member) => {
                    let place = Path::Member(&self.0, member.key());
                    return Err(A::Error::custom(format_args!("{place}: is given a second time")));
                }
                Entry::Vacant(member) => {
                    let value = source.next_value_seed(Unrepeated(Path::Member(&self.0, member.key())))?;
                    member.insert(value);
                }
            }
        }
        Ok(Value::Object(members))
    }
}
