//! Drops constants that nothing uses: lowering names values before it knows whether wide accesses make them needless.

use crate::print;
use crate::thread::CStmt;

/// Removes unused constants from a body and all nested ones.
pub fn tidy(body: Vec<CStmt>) -> Vec<CStmt> {
    let mut kept: Vec<CStmt> = vec![];
    // Text of what follows, in which a use would be seen.
    let mut later = String::new();
    for stmt in body.into_iter().rev() {
        let stmt = nested(stmt);
        if let CStmt::Declare { name, constant: true, .. } = &stmt
            && !mentions(&later, name)
        {
            continue;
        }
        later.push_str(&print::statement(&stmt));
        kept.push(stmt);
    }
    kept.reverse();
    kept
}

fn nested(stmt: CStmt) -> CStmt {
    match stmt {
        CStmt::For { ty, var, start, end, step, unroll, body } => {
            CStmt::For { ty, var, start, end, step, unroll, body: tidy(body) }
        }
        CStmt::If { cond, then, otherwise } => CStmt::If { cond, then: tidy(then), otherwise: tidy(otherwise) },
        CStmt::Lambda { name, param, body } => CStmt::Lambda { name, param, body: tidy(body) },
        stmt => stmt,
    }
}

/// Whether `word` stands in `text` as a whole identifier.
fn mentions(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| !text[..at].ends_with(part) && !text[at + word.len()..].starts_with(part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::thread::CExpr;

    #[test]
    fn chains_of_unused_constants_go() {
        let constant = |name: &str, value: &str| CStmt::constant(name, CExpr::name(value));
        let body = vec![
            constant("a", "threadIdx.x"),
            constant("ab", "a + 1"),
            constant("c", "ab * 2"),
            CStmt::Expr(CExpr::call("use", [CExpr::name("abc")])),
            constant("d", "4"),
            CStmt::Expr(CExpr::call("use", [CExpr::name("d")])),
        ];
        let kept = tidy(body);
        assert_eq!(kept.len(), 3);
        assert_eq!(kept[1], constant("d", "4"));
    }
}
