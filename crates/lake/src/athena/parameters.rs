//! `ExecutionParameters`: literals in the places of question marks.

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
    let mut quote = None;
    let mut chars = sql.char_indices().peekable();
    let mut marks = 0;
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            (Some(open), c) if open == c => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '-') if sql[at..].starts_with("--") => {
                out.push(c);
                while let Some((_, c)) = chars.next_if(|(_, c)| *c != '\n') {
                    out.push(c);
                }
                continue;
            }
            (None, '?') => {
                marks += 1;
                if let Some(value) = values.next() {
                    out.push_str(value);
                    continue;
                }
            }
            _ => {}
        }
        out.push(c);
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
        assert!(of(&["1"]).is_err() && of(&["1", "2", "3"]).is_err() && of(&[]).is_ok());
    }
}
