//! Lists of changes in JSON.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, value::MapAccessDeserializer},
};

use super::{bytes, integer, value::OwnedValue};
use crate::{Change, ChangeList, ChangeListBuilder, SiteId};

impl Serialize for ChangeList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self)
    }
}

impl<'de> Deserialize<'de> for ChangeList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ListVisitor)
    }
}

/// A change that has been read, with what it had to unescape or to decode.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OwnedChange<'a> {
    #[serde(borrow)]
    table: Cow<'a, str>,
    #[serde(with = "bytes")]
    pk: Vec<u8>,
    #[serde(borrow)]
    cid: Cow<'a, str>,
    #[serde(borrow)]
    val: OwnedValue<'a>,
    #[serde(with = "integer")]
    col_version: i64,
    #[serde(with = "integer")]
    db_version: i64,
    #[serde(default)]
    site: Option<SiteId>,
    #[serde(with = "integer", default = "created_once")]
    cl: i64,
    #[serde(with = "integer::var_int", default)]
    seq: i64,
}

/// The causal length of a row that was inserted and never deleted.
const fn created_once() -> i64 {
    1
}

impl OwnedChange<'_> {
    fn as_change(&self) -> Change<'_> {
        Change {
            table: &self.table,
            pk: &self.pk,
            cid: &self.cid,
            val: self.val.as_value(),
            col_version: self.col_version,
            db_version: self.db_version,
            site: self.site,
            cl: self.cl,
            seq: self.seq,
        }
    }
}

struct ListVisitor;

impl<'de> de::Visitor<'de> for ListVisitor {
    type Value = ChangeList;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of changes")
    }

    // Each change is encoded as soon as it is read, so that a large frame is never held a second time as a tree.
    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<ChangeList, A::Error> {
        let mut list = ChangeListBuilder::default();
        while let Some(Object(change)) = seq.next_element()? {
            list.push(change.as_change());
        }
        Ok(list.finish())
    }
}

/// A change that is an object. What serde derives would read an array of the fields as well, by their order.
struct Object<'de>(OwnedChange<'de>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor)
    }
}

struct ObjectVisitor;

impl<'de> de::Visitor<'de> for ObjectVisitor {
    type Value = Object<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a change")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Object<'de>, A::Error> {
        OwnedChange::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}
