//! Dead-code elimination: drops constants that nothing uses. Lowering names values before it knows whether wide accesses make them
//! needless.

use crate::thread::{CExpr, CStmt};
use std::collections::HashSet;

/// Removes unused constants from a body and all nested ones.
pub fn dce(body: Vec<CStmt>) -> Vec<CStmt> {
    live(body).0
}

/// What is left of a body, and the names that it uses.
fn live(body: Vec<CStmt>) -> (Vec<CStmt>, HashSet<String>) {
    let mut kept: Vec<CStmt> = vec![];
    let mut used = HashSet::new();
    for mut stmt in body.into_iter().rev() {
        if let CStmt::Declare { name, constant: true, .. } = &stmt
            && !used.contains(name)
        {
            continue;
        }
        for nested in stmt.bodies_mut() {
            let (body, names) = live(std::mem::take(nested));
            *nested = body;
            used.extend(names);
        }
        for e in stmt.exprs() {
            e.walk(&mut |e| {
                if let CExpr::Name(name) = e {
                    used.insert(name.clone());
                }
            });
        }
        kept.push(stmt);
    }
    kept.reverse();
    (kept, used)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn constant(name: &str, value: CExpr) -> CStmt {
        CStmt::constant(name, value)
    }

    fn uses(value: CExpr) -> CStmt {
        CStmt::Expr(CExpr::call("use", [value]))
    }

    #[test]
    fn chains_of_unused_constants_go() {
        let name = |text: &str| CExpr::name(text);
        let body = vec![
            constant("a", name("threadIdx.x")),
            constant("ab", name("a").infix("+", CExpr::int(1))),
            constant("c", name("ab").infix("*", CExpr::int(2))),
            uses(name("abc")),
            constant("d", CExpr::int(4)),
            uses(name("d")),
        ];
        let kept = dce(body.clone());
        assert_eq!(kept, body[3..]);
    }

    #[test]
    fn a_use_anywhere_in_a_statement_keeps_a_constant() {
        let i = CExpr::name("i");
        let holders: Vec<CStmt> = vec![
            CStmt::Assign(CExpr::name("x").at(i.clone()), CExpr::int(0)),
            CStmt::Assign(CExpr::name("x"), CExpr::Unary("-", Box::new(i.clone()))),
            CStmt::Expr(CExpr::call("f", [CExpr::int(1), i.clone()])),
            CStmt::Declare { ty: "int".into(), name: "j".into(), value: Some(i.clone()), constant: false },
            CStmt::If { cond: i.clone(), then: vec![CStmt::Return], otherwise: vec![] },
            CStmt::If { cond: CExpr::Bool(true), then: vec![CStmt::Return], otherwise: vec![uses(i.clone())] },
            CStmt::unrolled("j".into(), 4, vec![uses(i.clone())]),
            CStmt::Lambda { name: "f".into(), param: "int j".into(), body: vec![uses(i.clone())] },
        ];
        for holder in holders {
            let body = vec![constant("i", CExpr::int(3)), constant("unused", CExpr::int(4)), holder];
            assert_eq!(dce(body.clone()), [body[0].clone(), body[2].clone()]);
        }
    }

    /// A name may be used again after the block it was declared in.
    #[test]
    fn a_use_of_another_blocks_name_keeps_nothing() {
        let block = |body: Vec<CStmt>| CStmt::unrolled("v".into(), 4, body);
        let alive = block(vec![constant("t", CExpr::int(1)), uses(CExpr::name("t"))]);
        let body = vec![block(vec![constant("t", CExpr::int(2))]), alive.clone()];
        assert_eq!(dce(body), [block(vec![]), alive]);
    }
}
