//! Strict JSON objects: no duplicate members at any depth, bounded depth, bounded members.
//!
//! RFC 7519 §4 lets a reader take the last of two `exp` members; another reader may take the first,
//! and then two systems disagree on what one token says. Such a text is refused (JWT-6).

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::de::StrRead;
use smallvec::SmallVec;

/// How deep arrays and objects may nest, the outermost object included.
const MAX_DEPTH: usize = 16;

/// What a reader does with the members of the outermost object.
pub(crate) trait Members<'de> {
    /// Takes the member's value and answers `true`, or leaves it and answers `false`.
    fn read<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error>;
}

/// Reads a text that must be exactly one object with at most `max_members` members.
pub(crate) fn read_object<'de, M: Members<'de>>(
    text: &'de [u8],
    max_members: usize,
    members: &mut M,
) -> Result<(), serde_json::Error> {
    // Once for the whole text, and not once more for each string in it.
    let text = std::str::from_utf8(text).map_err(Error::custom)?;
    let mut deserializer = serde_json::Deserializer::new(StrRead::new(text));
    deserializer.deserialize_map(Object { members, max_members })?;
    deserializer.end()
}

/// A string, borrowed where it has no escapes.
pub(crate) struct Text<'de>(pub(crate) Cow<'de, str>);

impl<'de> serde::Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor).map(Self)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

/// The outermost object.
struct Object<'m, M> {
    members: &'m mut M,
    max_members: usize,
}

impl<'de, M: Members<'de>> Visitor<'de> for Object<'_, M> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut names = Names::new(self.max_members);
        while let Some(Text(name)) = map.next_key()? {
            if !self.members.read(&name, &mut map)? {
                map.next_value_seed(AnyValue::of_member(self.max_members))?;
            }
            names.push(name)?;
        }
        Ok(())
    }
}

/// Few in nearly every token.
pub(crate) type Texts<'de> = SmallVec<[Cow<'de, str>; 4]>;

/// What is kept of a value whose type may vary; the rest is checked and forgotten.
pub(crate) enum Value<'de> {
    Text(Cow<'de, str>),
    /// An array of strings and of nothing else.
    Texts(Texts<'de>),
    Other,
}

/// Reads a [`Value`] at this depth.
#[derive(Clone, Copy)]
pub(crate) struct AnyValue<'p> {
    depth: usize,
    max_members: usize,
    /// The members to follow inwards; the value at the end is the one that is kept.
    path: &'p [Box<str>],
}

impl<'p> AnyValue<'p> {
    /// The value of a member of the outermost object.
    pub(crate) fn of_member(max_members: usize) -> Self {
        Self { depth: 1, max_members, path: &[] }
    }

    /// The value that these names lead to, each inside the object that the one before it names.
    pub(crate) fn at(self, path: &'p [Box<str>]) -> Self {
        Self { path, ..self }
    }

    fn deeper<E: Error>(self, path: &'p [Box<str>]) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(E::custom("the text nests too deep"));
        }
        Ok(Self { depth: self.depth + 1, path, ..self })
    }

    /// What is kept of a value that has no members: all of it, unless a member of it is wanted.
    fn kept<'de>(self, value: Value<'de>) -> Value<'de> {
        if self.path.is_empty() { value } else { Value::Other }
    }
}

impl<'de> DeserializeSeed<'de> for AnyValue<'_> {
    type Value = Value<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AnyValue<'_> {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value<'de>, A::Error> {
        let (first, rest) = self.path.split_first().unzip();
        let mut found = Value::Other;
        let mut names = Names::new(self.max_members);
        while let Some(Text(name)) = map.next_key()? {
            if first.is_some_and(|first| **first == *name) {
                found = map.next_value_seed(self.deeper(rest.unwrap_or_default())?)?;
            } else {
                map.next_value_seed(self.deeper(&[])?)?;
            }
            names.push(name)?;
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value<'de>, A::Error> {
        let inside = self.deeper(&[])?;
        let mut texts = Some(Texts::new());
        while let Some(element) = seq.next_element_seed(inside)? {
            match (element, &mut texts) {
                (Value::Text(text), Some(texts)) => texts.push(text),
                _ => texts = None,
            }
        }
        Ok(self.kept(texts.map_or(Value::Other, Value::Texts)))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Value<'de>, E> {
        Ok(self.kept(Value::Text(Cow::Borrowed(text))))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value<'de>, E> {
        Ok(self.kept(Value::Text(Cow::Owned(text.to_owned()))))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value<'de>, E> {
        Ok(Value::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value<'de>, E> {
        Ok(Value::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Value<'de>, E> {
        Ok(Value::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value<'de>, E> {
        Ok(Value::Other)
    }

    fn visit_unit<E>(self) -> Result<Value<'de>, E> {
        Ok(Value::Other)
    }
}

/// The member names seen so far in one object.
struct Names<'de> {
    seen: SmallVec<[Cow<'de, str>; 12]>,
    /// A bit for the shape of each of them: what has another shape than all is new.
    shapes: u64,
    max: usize,
}

impl<'de> Names<'de> {
    fn new(max: usize) -> Self {
        Self { seen: SmallVec::new(), shapes: 0, max }
    }

    /// Objects are small and bounded, so that looking at every name beats hashing them.
    fn push<E: Error>(&mut self, name: Cow<'de, str>) -> Result<(), E> {
        let shape = shape(name.as_bytes());
        if self.shapes & shape != 0 && self.seen.contains(&name) {
            return Err(E::custom("an object has two members of one name"));
        }
        if self.seen.len() == self.max {
            return Err(E::custom("an object has too many members"));
        }
        self.shapes |= shape;
        self.seen.push(name);
        Ok(())
    }
}

/// One of 64 bits for a name's length, beginning and end, which tell most names apart.
fn shape(name: &[u8]) -> u64 {
    let ends = [name.first(), name.last()].map(|byte| byte.map_or(0, |&byte| usize::from(byte)));
    1 << ((13 * name.len() + ends[0] + 29 * ends[1]) % 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl<'de> Members<'de> for Nothing {
        fn read<A: MapAccess<'de>>(&mut self, _: &str, _: &mut A) -> Result<bool, A::Error> {
            Ok(false)
        }
    }

    fn accepts(text: &str) -> bool {
        read_object(text.as_bytes(), 32, &mut Nothing).is_ok()
    }

    #[test]
    fn an_object_is_read_with_unknown_members_of_every_type() {
        assert!(accepts(r#" {"a":null,"b":[1,-2,3.5,true,{"c":"\u0041"}],"d":{}} "#), "JWT-9");
    }

    #[test]
    fn anything_but_one_object_is_refused() {
        let texts = [
            "",
            "[]",
            "\"x\"",
            "1",
            "null",
            "{}x",
            "{} {}",
            "{",
            "{\"a\":}",
            "{\"a\":1,}",
            "\u{feff}{}",
            "{\"a\":NaN}",
            "{\"a\":1e400}",
            "{\"a\":01}",
            "{'a':1}",
            "{\"a\":\"\n\"}",
        ];
        for text in texts {
            assert!(!accepts(text), "JWT-5: {text:?}");
        }
        assert!(read_object(b"{\"a\":\"\xc0\xaf\"}", 32, &mut Nothing).is_err(), "JWT-5: UTF-8");
    }

    #[test]
    fn duplicate_members_are_refused_at_every_depth() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":1}"#,
            r#"{"x":{"a":1,"a":2}}"#,
            r#"{"x":[{"a":1,"a":2}]}"#,
        ] {
            assert!(!accepts(text), "JWT-6, attack 9: {text}");
        }
    }

    #[test]
    fn depth_and_members_are_bounded() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(accepts(&nested(15)), "JWT-8");
        assert!(!accepts(&nested(16)), "JWT-8");
        assert!(!accepts(&nested(10_000)), "JWT-8");
        let wide = |members: usize| {
            let members: Vec<_> = (0..members).map(|n| format!("\"m{n}\":0")).collect();
            format!("{{{}}}", members.join(","))
        };
        assert!(accepts(&wide(32)), "JWT-8");
        assert!(!accepts(&wide(33)), "JWT-8");
        assert!(!accepts(&format!("{{\"a\":{}}}", wide(33))), "JWT-8");
    }
}
