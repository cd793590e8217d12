//! The words of Hive's and Trino's statements.

use std::collections::BTreeMap;

use super::TableName;

/// One token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A word without quotes, lower-cased.
    Word(String),
    /// In double quotes or backquotes: a name, or in properties a text.
    Quoted(String),
    /// In single quotes.
    Text(String),
    Symbol(char),
}

/// The tokens of a statement, from a place on.
#[derive(Debug, Clone)]
pub(super) struct Tokens<'a> {
    sql: &'a str,
    at: usize,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(sql: &'a str) -> Self {
        Self { sql, at: 0 }
    }

    /// What is left of the text.
    pub(super) fn rest(&mut self) -> &'a str {
        let rest = &self.sql[self.at..];
        self.at = self.sql.len();
        rest
    }

    pub(super) fn skip_rest(&mut self) {
        self.at = self.sql.len();
    }

    fn skip_blanks(&mut self) {
        loop {
            let rest = &self.sql[self.at..];
            let blank = rest.len() - rest.trim_start().len();
            let rest = &rest[blank..];
            let comment = if rest.starts_with("--") {
                rest.find('\n').unwrap_or(rest.len())
            } else if rest.starts_with("/*") {
                rest.find("*/").map_or(rest.len(), |end| end + 2)
            } else {
                0
            };
            self.at += blank + comment;
            if blank + comment == 0 {
                return;
            }
        }
    }

    fn next(&mut self) -> Option<Token> {
        self.skip_blanks();
        let rest = &self.sql[self.at..];
        let first = rest.chars().next()?;
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        if is_word(first) {
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            self.at += end;
            return Some(Token::Word(rest[..end].to_lowercase()));
        }
        if matches!(first, '\'' | '"' | '`')
            && let Some((text, len)) = quoted(rest, first)
        {
            self.at += len;
            return Some(if first == '\'' { Token::Text(text) } else { Token::Quoted(text) });
        }
        self.at += first.len_utf8();
        Some(Token::Symbol(first))
    }

    fn peek(&self) -> Option<Token> {
        self.clone().next()
    }

    pub(super) fn next_word(&mut self) -> Option<String> {
        match self.next()? {
            Token::Word(word) => Some(word),
            _ => None,
        }
    }

    /// Takes a word if it is next.
    pub(super) fn take(&mut self, word: &str) -> bool {
        self.take_all(&[word])
    }

    /// Takes words if all of them are next.
    pub(super) fn take_all(&mut self, words: &[&str]) -> bool {
        let mut ahead = self.clone();
        let all = words.iter().all(|word| ahead.next_word().as_deref() == Some(word));
        if all {
            *self = ahead;
        }
        all
    }

    fn take_symbol(&mut self, symbol: char) -> bool {
        let taken = self.peek() == Some(Token::Symbol(symbol));
        if taken {
            self.next();
        }
        taken
    }

    pub(super) fn expect(&mut self, words: &[&str]) -> Result<(), String> {
        if self.take_all(words) { Ok(()) } else { Err(self.unexpected(&words.join(" ").to_uppercase())) }
    }

    fn expect_symbol(&mut self, symbol: char) -> Result<(), String> {
        if self.take_symbol(symbol) { Ok(()) } else { Err(self.unexpected(&symbol.to_string())) }
    }

    /// What stands here instead of what is expected, with its line and column.
    pub(super) fn unexpected(&self, expected: &str) -> String {
        let mut here = self.clone();
        here.skip_blanks();
        let before = &self.sql[..here.at];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |text| text.chars().count()) + 1;
        let found = match here.next() {
            None => "the end".to_owned(),
            Some(Token::Word(text) | Token::Quoted(text) | Token::Text(text)) => format!("'{text}'"),
            Some(Token::Symbol(symbol)) => format!("'{symbol}'"),
        };
        format!("SYNTAX_ERROR: line {line}:{column}: mismatched input {found}. Expecting: {expected}")
    }

    pub(super) fn end(&mut self) -> Result<(), String> {
        while self.take_symbol(';') {}
        if self.peek().is_none() { Ok(()) } else { Err(self.unexpected("the end")) }
    }

    pub(super) fn name(&mut self) -> Result<String, String> {
        match self.peek() {
            Some(Token::Word(name) | Token::Quoted(name)) if !name.is_empty() => {
                self.next();
                Ok(name.to_lowercase())
            }
            _ => Err(self.unexpected("a name")),
        }
    }

    /// `table`, `database.table` or `catalog.database.table`, of which the catalog is the only one.
    pub(super) fn table_name(&mut self) -> Result<TableName, String> {
        let mut parts = vec![self.name()?];
        while self.take_symbol('.') {
            parts.push(self.name()?);
        }
        let mut parts = parts.into_iter().rev();
        let (table, database, rest) = (parts.next(), parts.next(), parts.count());
        match table {
            Some(table) if rest <= 1 => Ok(TableName { database, table }),
            _ => Err("SYNTAX_ERROR: a table's name has at most three parts".to_owned()),
        }
    }

    pub(super) fn text(&mut self) -> Result<String, String> {
        match self.peek() {
            Some(Token::Text(text) | Token::Quoted(text)) => {
                self.next();
                Ok(text)
            }
            _ => Err(self.unexpected("a text in quotes")),
        }
    }

    pub(super) fn like(&mut self) -> Result<Option<String>, String> {
        let said = self.take("like");
        match self.peek() {
            Some(Token::Text(_)) => self.text().map(Some),
            _ if said => Err(self.unexpected("a pattern")),
            _ => Ok(None),
        }
    }

    /// `(name = value, …)`; a value that is no text is kept as it is written.
    pub(super) fn properties(&mut self) -> Result<BTreeMap<String, String>, String> {
        let mut properties = BTreeMap::new();
        self.expect_symbol('(')?;
        while !self.take_symbol(')') {
            let name = match self.next() {
                Some(Token::Word(name) | Token::Quoted(name) | Token::Text(name)) => name,
                _ => return Err(self.unexpected("a property")),
            };
            self.expect_symbol('=')?;
            properties.insert(name, self.value()?);
            if !self.take_symbol(',') && self.peek() != Some(Token::Symbol(')')) {
                return Err(self.unexpected(", or )"));
            }
        }
        Ok(properties)
    }

    fn value(&mut self) -> Result<String, String> {
        if let Some(Token::Text(_) | Token::Quoted(_)) = self.peek() {
            return self.text();
        }
        self.skip_blanks();
        let from = self.at;
        let mut depth = 0_usize;
        loop {
            match self.peek() {
                Some(Token::Symbol('[' | '(')) => depth += 1,
                Some(Token::Symbol(']' | ')')) if depth > 0 => depth -= 1,
                Some(Token::Symbol(')' | ',')) if depth == 0 => break,
                None => return Err(self.unexpected("a value")),
                _ => {}
            }
            self.next();
        }
        Ok(self.sql[from..self.at].trim().to_owned())
    }

    /// `(name type [COMMENT 'text'], …)` with Hive's types, which may have parameters.
    pub(super) fn columns(&mut self) -> Result<Vec<(String, String)>, String> {
        let mut columns = Vec::new();
        self.expect_symbol('(')?;
        loop {
            let name = self.name()?;
            let kind = self.kind()?;
            if self.take("comment") {
                self.text()?;
            }
            columns.push((name, kind));
            if self.take_symbol(')') {
                return Ok(columns);
            }
            self.expect_symbol(',')?;
        }
    }

    fn kind(&mut self) -> Result<String, String> {
        let mut kind = self.next_word().ok_or_else(|| self.unexpected("a type"))?;
        let mut depth = 0_usize;
        loop {
            match self.peek() {
                Some(Token::Symbol(open @ ('(' | '<'))) => {
                    depth += 1;
                    kind.push(open);
                }
                Some(Token::Symbol(close @ (')' | '>'))) if depth > 0 => {
                    depth -= 1;
                    kind.push(close);
                }
                Some(Token::Symbol(inner)) if depth > 0 => kind.push(inner),
                Some(Token::Word(word) | Token::Quoted(word)) if depth > 0 => kind.push_str(&word),
                None if depth > 0 => return Err(self.unexpected("the end of a type")),
                _ => return Ok(kind),
            }
            self.next();
        }
    }

    /// The text between parentheses: a query, in which a backslash means itself.
    pub(super) fn parenthesised(&mut self) -> Result<String, String> {
        self.expect_symbol('(')?;
        let inside = &self.sql[self.at..];
        let (mut depth, mut at) = (1_usize, 0);
        while let Some(c) = inside[at..].chars().next() {
            match c {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                self.at += at + 1;
                return Ok(inside[..at].trim().to_owned());
            }
            at += opaque(&inside[at..]).unwrap_or(c.len_utf8());
        }
        self.skip_rest();
        Err(self.unexpected(")"))
    }
}

/// The length of the text, quoted name or comment that a query goes on with, if it does. A quote twice in it means
/// itself, which reads as two texts; a backslash means itself. What does not end goes to the query's end.
pub(in crate::athena) fn opaque(rest: &str) -> Option<usize> {
    let ends = |from: usize, end: &str| rest[from..].find(end).map_or(rest.len(), |at| from + at + end.len());
    match rest.as_bytes() {
        [b'\'', ..] => Some(ends(1, "'")),
        [b'"', ..] => Some(ends(1, "\"")),
        [b'-', b'-', ..] => Some(ends(2, "\n")),
        [b'/', b'*', ..] => Some(ends(2, "*/")),
        _ => None,
    }
}

/// A text in quotes and its length with them. The quote twice means itself; in double quotes so does what follows a
/// backslash, as Hive has it.
fn quoted(rest: &str, quote: char) -> Option<(String, usize)> {
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == quote {
            if chars.peek().is_some_and(|(_, next)| *next == quote) {
                chars.next();
            } else {
                return Some((text, at + quote.len_utf8()));
            }
        } else if c == '\\' && quote != '`' {
            match chars.peek() {
                Some((_, escaped @ ('\\' | '"' | '\''))) => {
                    text.push(*escaped);
                    chars.next();
                    continue;
                }
                Some((_, 't')) => {
                    text.push('\t');
                    chars.next();
                    continue;
                }
                _ => {}
            }
        }
        text.push(c);
    }
    None
}
