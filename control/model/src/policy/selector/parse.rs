//! The parser: recursive descent over the text itself, because what a word means depends on where it stands.

use std::collections::BTreeSet;

use super::{Comparison, Expression, MAX_LABEL, MAX_NESTING};

/// Why a text is no selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} (at byte {position})")]
pub struct SelectorError {
    /// Bytes before the place that is wrong.
    pub position: usize,
    /// What is wrong, and what would be right.
    pub message: String,
}

pub(super) fn parse(text: &str) -> Result<Expression, SelectorError> {
    let mut parser = Parser {
        text,
        position: 0,
        nesting: 0,
    };
    parser.space();
    if parser.rest().is_empty() {
        return Ok(Expression::All);
    }
    let expression = parser.or()?;
    if parser.rest().is_empty() {
        Ok(expression)
    } else {
        Err(parser.error("expected &&, || or the end"))
    }
}

/// What follows a label.
enum Operator {
    Compare(Comparison),
    In,
    NotIn,
}

/// Operators that are words, in the order in which they are tried; white space may stand between the parts.
const WORDS: [(&[&str], Operator); 5] = [
    (&["in"], Operator::In),
    (&["not", "in"], Operator::NotIn),
    (&["contains"], Operator::Compare(Comparison::Contains)),
    (
        &["starts", "with"],
        Operator::Compare(Comparison::StartsWith),
    ),
    (&["ends", "with"], Operator::Compare(Comparison::EndsWith)),
];

struct Parser<'a> {
    text: &'a str,
    position: usize,
    nesting: usize,
}

/// After each of its methods the position is at a token or the end, not at white space.
impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.position..]
    }

    fn error(&self, message: impl Into<String>) -> SelectorError {
        let message = message.into();
        let found = match self.rest().chars().next() {
            None => "the end".to_owned(),
            Some(c) => format!("{c:?}"),
        };
        SelectorError {
            position: self.position,
            message: format!("{message}, found {found}"),
        }
    }

    fn space(&mut self) {
        let rest = self.rest();
        self.position += rest.len() - rest.trim_start_matches([' ', '\t']).len();
    }

    /// Takes a token that is there.
    fn take(&mut self, token: &str) -> bool {
        let there = self.rest().starts_with(token);
        if there {
            self.position += token.len();
            self.space();
        }
        there
    }

    fn expect(&mut self, token: &str) -> Result<(), SelectorError> {
        if self.take(token) {
            Ok(())
        } else {
            Err(self.error(format!("expected {token:?}")))
        }
    }

    fn or(&mut self) -> Result<Expression, SelectorError> {
        let mut any = vec![self.and()?];
        while self.take("||") {
            any.push(self.and()?);
        }
        Ok(if any.len() == 1 {
            any.remove(0)
        } else {
            Expression::Or(any)
        })
    }

    fn and(&mut self) -> Result<Expression, SelectorError> {
        let mut all = vec![self.operation()?];
        while self.take("&&") {
            all.push(self.operation()?);
        }
        Ok(if all.len() == 1 {
            all.remove(0)
        } else {
            Expression::And(all)
        })
    }

    fn operation(&mut self) -> Result<Expression, SelectorError> {
        let mut negated = false;
        while self.take("!") {
            negated = !negated;
        }
        let inner = self.primary()?;
        Ok(if negated {
            Expression::Not(Box::new(inner))
        } else {
            inner
        })
    }

    fn primary(&mut self) -> Result<Expression, SelectorError> {
        if self.rest().starts_with('(') {
            if self.nesting == MAX_NESTING {
                let message = format!("parentheses may be nested at most {MAX_NESTING} deep");
                return Err(self.error(message));
            }
            self.nesting += 1;
            self.take("(");
            let inner = self.or()?;
            self.expect(")")?;
            self.nesting -= 1;
            return Ok(inner);
        }
        if self.take("has(") {
            let label = self.name()?;
            self.expect(")")?;
            return Ok(Expression::Has(label));
        }
        for (call, expression) in [("all(", Expression::All), ("global(", Expression::Global)] {
            if self.take(call) {
                self.expect(")")?;
                return Ok(expression);
            }
        }
        let label = self.name()?;
        match self.operator()? {
            Operator::Compare(comparison) => {
                Ok(Expression::Compare(label, comparison, self.string()?))
            }
            Operator::In => Ok(Expression::In(label, self.set()?)),
            Operator::NotIn => Ok(Expression::NotIn(label, self.set()?)),
        }
    }

    fn name(&mut self) -> Result<Box<str>, SelectorError> {
        let rest = self.rest();
        let length = rest
            .bytes()
            .take_while(|c| super::super::is_label_byte(*c))
            .count();
        if length == 0 {
            return Err(self.error("expected a label, has(…), all(), global(), ! or ("));
        }
        if length > MAX_LABEL {
            return Err(SelectorError {
                position: self.position,
                message: format!("a label has at most {MAX_LABEL} characters, this one {length}"),
            });
        }
        self.position += length;
        self.space();
        Ok(rest[..length].into())
    }

    fn operator(&mut self) -> Result<Operator, SelectorError> {
        if self.take("==") {
            return Ok(Operator::Compare(Comparison::Equal));
        }
        if self.take("!=") {
            return Ok(Operator::Compare(Comparison::NotEqual));
        }
        let start = self.position;
        for (parts, operator) in WORDS {
            // `take` skips white space, so the boundary is looked at where the last part ends.
            let (first, last) = (&parts[..parts.len() - 1], parts[parts.len() - 1]);
            if first.iter().all(|part| self.take(part)) && self.rest().starts_with(last) {
                let after = self.rest().as_bytes().get(last.len());
                if after.is_none_or(|c| !super::super::is_label_byte(*c)) {
                    self.take(last);
                    return Ok(operator);
                }
            }
            self.position = start;
        }
        Err(self
            .error("expected an operator: ==, !=, in, not in, contains, starts with or ends with"))
    }

    fn string(&mut self) -> Result<Box<str>, SelectorError> {
        let rest = self.rest();
        let Some(mark) = rest.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
            return Err(self.error("expected a string in quotes"));
        };
        let Some(length) = rest[1..].find(mark) else {
            return Err(SelectorError {
                position: self.position,
                message: format!("the string has no closing {mark}"),
            });
        };
        self.position += length + 2;
        self.space();
        Ok(rest[1..=length].into())
    }

    fn set(&mut self) -> Result<BTreeSet<Box<str>>, SelectorError> {
        self.expect("{")?;
        let mut values = BTreeSet::new();
        while !self.take("}") {
            values.insert(self.string()?);
            if !self.take(",") {
                self.expect("}")?;
                break;
            }
        }
        Ok(values)
    }
}
