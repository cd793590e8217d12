//! `ExecutionParameters`: literals in the places of question marks.

use super::statement::opaque;

/// The statement with its question marks replaced in order, those in texts, names and comments left alone.
///
/// # Errors
/// When there are more or fewer than parameters.
pub(super) fn bind(sql: &str, parameters: &[String]) -> Result<String, String> {
    if parameters.is_empty() {
        return Ok(sql.to_owned());
    }
    let mut out = String::with_capacity(sql.len());
    let mut values = parameters.iter();
    let mut rest = sql;
    let mut marks = 0;
    while let Some(c) = rest.chars().next() {
        let len = opaque(rest).unwrap_or(c.len_utf8());
        let (here, after) = rest.split_at(len);
        if c == '?' {
            marks += 1;
            out.push_str(values.next().map_or(here, String::as_str));
        } else {
            out.push_str(here);
        }
        rest = after;
    }
    if marks == parameters.len() {
        return Ok(out);
    }
    Err(format!("SYNTAX_ERROR: Incorrect number of parameters: expected {marks} but found {}", parameters.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn question_marks_are_replaced_outside_of_quotes() {
        let of = |parameters: &[&str]| {
            let parameters: Vec<String> = parameters.iter().map(|text| (*text).to_owned()).collect();
            bind("SELECT '?', \"a?\" -- ?\nWHERE x = ? AND y = ?", &parameters)
        };
        assert_eq!(of(&["1", "'b?'"]).as_deref(), Ok("SELECT '?', \"a?\" -- ?\nWHERE x = 1 AND y = 'b?'"));
        let commented = bind("SELECT /* ' ? */ ?, 'it''s ?' -- it's ?", &["1".to_owned()]);
        assert_eq!(commented.as_deref(), Ok("SELECT /* ' ? */ 1, 'it''s ?' -- it's ?"));
        assert!(of(&["1"]).is_err() && of(&["1", "2", "3"]).is_err() && of(&[]).is_ok());
    }
}
