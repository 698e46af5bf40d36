use bytes::{BufMut, BytesMut};

use super::{DecodeError, DecodeErrorKind, Reader, writer::Writer};
use crate::{Change, SiteId, Value};

/// No change is shorter than this, in bytes: empty texts, NULL, no site and a small seq.
pub(super) const MIN_LEN: usize = 4 + 3 * 8 + 2;

mod value_type {
    pub(super) const NULL: u8 = 0;
    pub(super) const INTEGER: u8 = 1;
    pub(super) const NUMBER: u8 = 2;
    pub(super) const TEXT: u8 = 3;
    pub(super) const BOOLEAN: u8 = 4;
    pub(super) const BLOB: u8 = 5;
}

mod site_marker {
    pub(super) const NONE: u8 = 0;
    pub(super) const SOME: u8 = 5;
}

impl Change<'_> {
    /// Appends the change as it stands inside a message: the format of [`binary`](crate::binary).
    pub fn encode_into(&self, out: &mut BytesMut) {
        out.put_string(self.table);
        out.put_byte_string(self.pk);
        out.put_string(self.cid);
        self.val.encode_into(out);
        out.put_i64(self.col_version);
        out.put_i64(self.db_version);
        match self.site {
            None => out.put_u8(site_marker::NONE),
            Some(site) => {
                out.put_u8(site_marker::SOME);
                out.put_site(site);
            }
        }
        out.put_i64(self.cl);
        out.put_var_int(self.seq);
    }
}

impl Value<'_> {
    fn encode_into(&self, out: &mut BytesMut) {
        match *self {
            Self::Null => out.put_u8(value_type::NULL),
            Self::Integer(integer) => {
                out.put_u8(value_type::INTEGER);
                out.put_i64(integer);
            }
            Self::Number(number) => {
                out.put_u8(value_type::NUMBER);
                out.put_f64(number);
            }
            Self::Text(text) => {
                out.put_u8(value_type::TEXT);
                out.put_string(text);
            }
            Self::Boolean(boolean) => {
                out.put_u8(value_type::BOOLEAN);
                out.put_bool(boolean);
            }
            Self::Blob(bytes) => {
                out.put_u8(value_type::BLOB);
                out.put_byte_string(bytes);
            }
        }
    }
}

impl<'a> Reader<'a> {
    pub(crate) fn change(&mut self) -> Result<Change<'a>, DecodeError> {
        Ok(Change {
            table: self.string("the table of a change")?,
            pk: self.bytes("the key of a change")?,
            cid: self.string("the column of a change")?,
            val: self.value()?,
            col_version: self.i64("the col_version of a change")?,
            db_version: self.i64("the db_version of a change")?,
            site: self.optional_site()?,
            cl: self.i64("the cl of a change")?,
            seq: self.var_int("the seq of a change")?,
        })
    }

    fn value(&mut self) -> Result<Value<'a>, DecodeError> {
        let start = self.offset();
        match self.u8("the type of a value")? {
            value_type::NULL => Ok(Value::Null),
            value_type::INTEGER => self.i64("an integer value").map(Value::Integer),
            value_type::NUMBER => self.f64("a number value").map(Value::Number),
            value_type::TEXT => self.string("a text value").map(Value::Text),
            value_type::BOOLEAN => self.bool("a boolean value").map(Value::Boolean),
            value_type::BLOB => self.bytes("a blob value").map(Value::Blob),
            unknown => Err(DecodeErrorKind::UnknownValueType(unknown).at(start)),
        }
    }

    fn optional_site(&mut self) -> Result<Option<SiteId>, DecodeError> {
        let start = self.offset();
        match self.u8("the site of a change")? {
            site_marker::NONE => Ok(None),
            site_marker::SOME => self.site("the site of a change").map(Some),
            unknown => Err(DecodeErrorKind::UnknownSiteMarker(unknown).at(start)),
        }
    }
}
