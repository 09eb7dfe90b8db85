//! Constants in a text.

use super::Parser;
use super::cursor::Parsed;
use crate::diag::Code;
use crate::graph::ValueId;
use crate::lex::Token;
use crate::name::is_name_char;
use crate::tensor::{Data, Tensor};
use crate::types::{Elem, Int, Type};

/// Most elements that one number stands for: a text is not much shorter than what it means.
const MOST_REPEATED: usize = 1 << 20;

impl Parser<'_, '_> {
    pub(super) fn constant(&mut self, name: &str) -> Parsed<Option<ValueId>> {
        self.cursor.expect(":")?;
        let ty = self.ty()?;
        self.cursor.expect("=")?;
        let at = self.cursor.at;
        let data = if self.cursor.is_word("file") {
            self.cursor.advance();
            self.cursor.expect("<")?;
            let data = self.side_file(&ty)?;
            self.cursor.expect(">")?;
            data
        } else {
            self.dense(&ty)?
        };
        if data.len() != ty.elements() {
            let message = format!("expected {} elements, found {}", ty.elements(), data.len());
            return Err(self.cursor.fault_at(at, Code::SYNTAX, message));
        }
        let tensor = Tensor { dims: ty.dims, data };
        Ok(Some(self.builder.add_typed_const(name, tensor, ty.elem)))
    }

    /// `dense<[..]>` or `dense<x>`, stored as the element type says.
    fn dense(&mut self, ty: &Type) -> Parsed<Data> {
        self.cursor.expect_word("dense")?;
        self.cursor.expect("<")?;
        if matches!(self.cursor.token, Token::Punct("...")) {
            return Err(self.cursor.expected("`[`").help("the text was printed without its large constants"));
        }
        let data = match (&ty.elem, ty.elem.storage()) {
            (Elem::F32 | Elem::Calibrated(_), _) => Data::F32(self.numbers(ty, |p| p.cursor.float())?),
            (_, None | Some(Int::U4 | Int::U8)) => Data::U8(self.numbers(ty, |p| p.cursor.integer())?),
            (_, Some(Int::I4 | Int::I8)) => Data::I8(self.numbers(ty, |p| p.cursor.integer())?),
            (_, Some(Int::I16)) => Data::I16(self.numbers(ty, |p| p.cursor.integer())?),
            (_, Some(Int::I32)) => Data::I32(self.numbers(ty, |p| p.cursor.integer())?),
            (_, Some(Int::I64)) => Data::I64(self.numbers(ty, |p| p.cursor.integer())?),
        };
        self.cursor.expect(">")?;
        Ok(data)
    }

    /// Numbers in brackets, or one for all elements of the type.
    fn numbers<T: Clone>(&mut self, ty: &Type, number: impl Fn(&mut Self) -> Parsed<T>) -> Parsed<Vec<T>> {
        if self.cursor.eat("[") {
            return self.list("]", number);
        }
        let at = self.cursor.at;
        let value = number(self)?;
        match ty.checked_elements().filter(|&n| n <= MOST_REPEATED) {
            Some(n) => Ok(vec![value; n]),
            None => {
                let message = format!("expected at most {MOST_REPEATED} elements of one number");
                Err(self.cursor.fault_at(at, Code::SYNTAX, message))
            }
        }
    }

    fn side_file(&mut self, ty: &Type) -> Parsed<Data> {
        let at = self.cursor.at;
        let name = self.cursor.string("the name of a file, in quotes")?;
        // Only a plain name: a text must not reach outside the folder it is read from.
        if name.starts_with('.') || name.is_empty() || !name.chars().all(is_name_char) {
            return Err(self.cursor.fault_at(
                at,
                Code::SYNTAX,
                "expected a plain file name without a folder".to_string(),
            ));
        }
        let bytes = (self.side)(&name).map_err(|e| self.cursor.fault_at(at, Code::FILE, format!("`{name}`: {e}")))?;
        let whole = Data::from_bytes(&ty.elem, &bytes);
        whole.ok_or_else(|| self.cursor.fault_at(at, Code::FILE, format!("`{name}` is cut off: {} bytes", bytes.len())))
    }
}
