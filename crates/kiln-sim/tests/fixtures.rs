//! One fixture an instruction form: 32 lanes of generated inputs, and outputs recorded on a GPU.
//!
//! `KILN_SIM_FIXTURES=DIR cargo test -p kiln-sim --test fixtures` writes the PTX and the inputs of every fixture to DIR;
//! `tests/fixtures/record.py DIR` runs them on the GPU it finds and writes `recorded.txt`, which goes next to it.

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use kiln_sim::{Arg, Device, LaunchConfig, Module, Options};
use support::{Rng, get, put};

/// How inputs are drawn.
#[derive(Clone, Copy)]
enum Input {
    /// Any bits.
    Bits,
    /// Small integers, and any bits one time in four.
    Ints,
    /// f32 of all magnitudes, with zeros, infinities, NaNs and subnormals among them.
    F32,
    /// f32 in [-8, 8].
    Near,
    /// Two f16 of all magnitudes.
    Half,
    /// Two bf16 of moderate magnitude.
    Bf16,
    /// Two f16 in (-2, 2).
    HalfNear,
    /// Four 8-bit floats without NaNs or infinities.
    Fp8,
    /// f64 as two words, alternately low and high.
    F64,
    /// f64 of moderate magnitude.
    F64Near,
}

/// How outputs are compared.
#[derive(Clone, Copy)]
enum Compare {
    /// Bit for bit, except that any NaN equals any NaN of the width (32, 16 or 64 bits; 0: all bits count).
    Exact(u32),
    /// f32 within this many units in the last place.
    Ulp32(u32),
    /// Packed f16 within this many units in the last place.
    Ulp16(u32),
    /// f32 within this fraction of the largest magnitude.
    Relative(f32),
    /// Packed f16 within this fraction of the largest magnitude.
    Relative16(f32),
}

use Compare::{Exact, Relative, Relative16, Ulp16, Ulp32};

struct Fixture {
    name: String,
    /// PTX that turns %i0.. into %o0..
    body: String,
    threads: usize,
    inputs: usize,
    outputs: usize,
    input: Input,
    compare: Compare,
}

#[derive(Default)]
struct Table(Vec<Fixture>);

impl Table {
    fn add(&mut self, name: &str, inputs: usize, outputs: usize, input: Input, compare: Compare, body: &str) {
        let name = name.replace(['.', ':'], "_");
        self.0.push(Fixture { name, body: body.to_string(), threads: 32, inputs, outputs, input, compare });
    }

    /// `op %o0, %i0, ...` for each listed opcode.
    fn plain(&mut self, inputs: usize, input: Input, compare: Compare, ops: &[&str]) {
        let args: String = (0..inputs).map(|i| format!(", %i{i}")).collect();
        for op in ops {
            self.add(op, inputs, 1, input, compare, &format!("{op} %o0{args};"));
        }
    }

    /// The same on 64-bit operands, each from two words.
    fn wide(&mut self, inputs: usize, input: Input, compare: Compare, ops: &[&str]) {
        for op in ops {
            let mut body = String::new();
            for i in 0..inputs {
                let _ = write!(body, "mov.b64 %d{i}, {{%i{}, %i{}}};\n", 2 * i, 2 * i + 1);
            }
            let args: String = (0..inputs).map(|i| format!(", %d{i}")).collect();
            let _ = write!(body, "{op} %d9{args};\nmov.b64 {{%o0, %o1}}, %d9;");
            self.add(op, 2 * inputs, 2, input, compare, &body);
        }
    }

    /// 16-bit operands and result in the lower halves.
    fn short(&mut self, inputs: usize, input: Input, ops: &[&str]) {
        for op in ops {
            let mut body = String::new();
            for i in 0..inputs {
                let _ = write!(body, "mov.b32 {{%h{i}, %h8}}, %i{i};\n");
            }
            let args: String = (0..inputs).map(|i| format!(", %h{i}")).collect();
            let _ = write!(body, "{op} %h9{args};\nmov.b32 %o0, {{%h9, %h9}};");
            self.add(op, inputs, 1, input, Exact(16), &body);
        }
    }
}

fn table() -> Vec<Fixture> {
    let mut t = Table::default();
    integers(&mut t);
    floats(&mut t);
    conversions(&mut t);
    warps(&mut t);
    matrices(&mut t);
    warpgroups(&mut t);
    t.0
}

fn integers(t: &mut Table) {
    use Input::{Bits, Ints};
    t.plain(
        2,
        Ints,
        Exact(0),
        &["add.sat.s32", "sub.sat.s32", "mul.lo.s32", "mul.hi.s32", "mul.hi.u32", "div.s32", "div.u32"],
    );
    t.plain(
        2,
        Ints,
        Exact(0),
        &["rem.s32", "rem.u32", "min.s32", "max.u32", "mul24.lo.s32", "mul24.hi.u32", "mul24.hi.s32"],
    );
    t.plain(
        2,
        Ints,
        Exact(0),
        &["shl.b32", "shr.u32", "shr.s32", "bmsk.clamp.b32", "bmsk.wrap.b32", "szext.clamp.s32", "szext.wrap.u32"],
    );
    t.plain(
        3,
        Ints,
        Exact(0),
        &["mad.lo.s32", "mad.hi.s32", "mad.hi.u32", "mad.hi.sat.s32", "mad24.lo.s32", "sad.s32", "sad.u32"],
    );
    t.plain(
        3,
        Ints,
        Exact(0),
        &["bfe.u32", "bfe.s32", "shf.l.clamp.b32", "shf.l.wrap.b32", "shf.r.clamp.b32", "shf.r.wrap.b32"],
    );
    t.plain(4, Ints, Exact(0), &["bfi.b32"]);
    t.plain(3, Bits, Exact(0), &["dp4a.s32.u32", "dp4a.u32.s32", "dp2a.lo.s32.s32", "dp2a.hi.u32.s32", "slct.s32.s32"]);
    t.plain(
        3,
        Bits,
        Exact(0),
        &["prmt.b32", "prmt.b32.f4e", "prmt.b32.b4e", "prmt.b32.rc8", "prmt.b32.ecl", "prmt.b32.ecr", "prmt.b32.rc16"],
    );
    t.plain(
        1,
        Ints,
        Exact(0),
        &["brev.b32", "popc.b32", "clz.b32", "bfind.u32", "bfind.s32", "bfind.shiftamt.s32", "abs.s32", "neg.s32"],
    );
    t.plain(1, Ints, Exact(0), &["not.b32", "cnot.b32"]);
    t.plain(2, Bits, Exact(0), &["add.u16x2", "min.s16x2", "max.u16x2"]);
    for lut in [0x1b, 0x96, 0xe8, 0x7f, 0xca] {
        t.add(&format!("lop3_{lut:x}"), 3, 1, Bits, Exact(0), &format!("lop3.b32 %o0, %i0, %i1, %i2, {lut};"));
    }
    t.wide(
        2,
        Bits,
        Exact(0),
        &["add.s64", "mul.lo.s64", "mul.hi.u64", "mul.hi.s64", "div.s64", "rem.u64", "max.s64", "xor.b64"],
    );
    t.wide(1, Bits, Exact(0), &["brev.b64", "neg.s64", "abs.s64"]);
    for op in ["popc.b64", "clz.b64", "bfind.s64"] {
        t.add(op, 2, 1, Bits, Exact(0), &format!("mov.b64 %d0, {{%i0, %i1}};\n{op} %o0, %d0;"));
    }
    for op in ["bfe.s64", "bfe.u64"] {
        let body = format!(
            "mov.b64 %d0, {{%i0, %i1}};\nand.b32 %i2, %i2, 127;\n{op} %d1, %d0, %i2, %i3;\nmov.b64 {{%o0, %o1}}, %d1;"
        );
        t.add(op, 4, 2, Ints, Exact(0), &body);
    }
    t.add("add_carry", 4, 2, Bits, Exact(0), "add.cc.u32 %o0, %i0, %i1;\naddc.u32 %o1, %i2, %i3;");
    t.add("sub_borrow", 4, 2, Bits, Exact(0), "sub.cc.u32 %o0, %i0, %i1;\nsubc.u32 %o1, %i2, %i3;");
    t.add("mad_carry", 4, 2, Bits, Exact(0), "mad.lo.cc.u32 %o0, %i0, %i1, %i2;\nmadc.hi.u32 %o1, %i0, %i1, %i3;");
    t.add("mul_wide_s16", 2, 1, Bits, Exact(0), "mov.b32 {%h0, %h1}, %i0;\nmul.wide.s16 %o0, %h0, %h1;");
    t.add("setp_pair", 3, 2, Ints, Exact(0), "setp.ne.u32 %p2, %i2, 0;\nsetp.lt.xor.s32 %p0|%p1, %i0, %i1, %p2;\nselp.u32 %o0, 1, 2, %p0;\nselp.u32 %o1, 3, 4, !%p1;");
    t.add(
        "lop3_predicate",
        3,
        1,
        Ints,
        Exact(0),
        "setp.gt.s32 %p1, %i0, 3;\nlop3.or.b32 %o0|%p0, %i0, %i1, %i2, 0xc0, %p1;\n@%p0 add.u32 %o0, %o0, 1000;",
    );
}

fn floats(t: &mut Table) {
    use Input::{Bf16, F32, F64, Half, HalfNear, Near};
    let f32_exact = Exact(32);
    for m in ["rn", "rz", "rm", "rp", "rn.ftz", "rz.ftz", "rn.sat", "rp.ftz.sat"] {
        t.plain(2, F32, f32_exact, &[&format!("add.{m}.f32"), &format!("mul.{m}.f32"), &format!("sub.{m}.f32")]);
        t.plain(3, F32, f32_exact, &[&format!("fma.{m}.f32")]);
    }
    for m in ["rn", "rz", "rm", "rp", "rn.ftz"] {
        t.plain(2, F32, f32_exact, &[&format!("div.{m}.f32")]);
        t.plain(1, F32, f32_exact, &[&format!("rcp.{m}.f32"), &format!("sqrt.{m}.f32")]);
    }
    t.plain(
        2,
        F32,
        f32_exact,
        &["min.f32", "max.f32", "min.NaN.f32", "max.ftz.f32", "max.xorsign.abs.f32", "copysign.f32"],
    );
    t.plain(1, F32, f32_exact, &["abs.f32", "neg.f32", "abs.ftz.f32"]);
    t.plain(2, F32, Ulp32(2), &["div.approx.f32", "div.full.f32", "div.approx.ftz.f32"]);
    t.plain(
        1,
        F32,
        Ulp32(2),
        &["ex2.approx.f32", "ex2.approx.ftz.f32", "rcp.approx.f32", "rcp.approx.ftz.f32", "sqrt.approx.f32"],
    );
    t.plain(1, F32, Ulp32(2), &["rsqrt.approx.f32", "rsqrt.approx.ftz.f32"]);
    t.plain(1, F32, Relative(1e-6), &["lg2.approx.f32"]);
    t.plain(1, Near, Relative(2e-6), &["sin.approx.f32", "cos.approx.f32"]);
    t.plain(1, Near, Relative(7e-4), &["tanh.approx.f32"]);
    for cmp in ["lt", "ge", "equ", "neu", "ltu", "num", "nan"] {
        t.plain(2, F32, Exact(0), &[&format!("set.{cmp}.u32.f32"), &format!("set.{cmp}.ftz.u32.f32")]);
    }
    for m in ["rn", "rz", "rm", "rp"] {
        t.wide(2, F64, Exact(64), &[&format!("add.{m}.f64"), &format!("mul.{m}.f64"), &format!("div.{m}.f64")]);
        t.wide(3, Input::F64Near, Exact(64), &[&format!("fma.{m}.f64")]);
        t.wide(1, F64, Exact(64), &[&format!("sqrt.{m}.f64"), &format!("rcp.{m}.f64")]);
    }
    t.wide(2, F64, Exact(64), &["min.f64", "max.f64"]);
    t.plain(
        2,
        Half,
        Exact(16),
        &["add.f16x2", "sub.rn.f16x2", "mul.f16x2", "add.sat.f16x2", "mul.ftz.f16x2", "min.f16x2", "max.NaN.f16x2"],
    );
    t.plain(3, Half, Exact(16), &["fma.rn.f16x2", "fma.rn.relu.f16x2", "fma.rn.sat.f16x2", "fma.rn.ftz.f16x2"]);
    t.plain(1, Half, Exact(16), &["abs.f16x2", "neg.f16x2"]);
    t.plain(
        2,
        Bf16,
        Exact(16),
        &["add.rn.bf16x2", "sub.rn.bf16x2", "mul.rn.bf16x2", "min.bf16x2", "max.NaN.bf16x2", "min.xorsign.abs.bf16x2"],
    );
    t.plain(3, Bf16, Exact(16), &["fma.rn.bf16x2", "fma.rn.relu.bf16x2"]);
    t.short(2, Half, &["add.f16", "mul.sat.f16", "min.NaN.f16", "max.f16"]);
    t.short(3, Half, &["fma.rn.f16", "fma.rn.relu.f16"]);
    t.short(3, Bf16, &["fma.rn.bf16"]);
    t.plain(1, HalfNear, Ulp16(2), &["ex2.approx.f16x2", "tanh.approx.f16x2"]);
    t.add(
        "setp_f16x2",
        2,
        2,
        Half,
        Exact(0),
        "setp.le.f16x2 %p0|%p1, %i0, %i1;\nselp.u32 %o0, 1, 2, %p0;\nselp.u32 %o1, 3, 4, %p1;",
    );
    for test in ["finite", "infinite", "number", "notanumber", "normal", "subnormal"] {
        t.add(
            &format!("testp.{test}"),
            1,
            1,
            F32,
            Exact(0),
            &format!("testp.{test}.f32 %p0, %i0;\nselp.u32 %o0, 1, 0, %p0;"),
        );
    }
}

fn conversions(t: &mut Table) {
    use Input::{Bits, F32, F64, Fp8, Half, Ints};
    for m in ["rni", "rzi", "rmi", "rpi"] {
        t.plain(
            1,
            F32,
            Exact(32),
            &[
                &format!("cvt.{m}.s32.f32"),
                &format!("cvt.{m}.u32.f32"),
                &format!("cvt.{m}.f32.f32"),
                &format!("cvt.{m}.ftz.u32.f32"),
            ],
        );
    }
    t.plain(
        1,
        F32,
        Exact(32),
        &["cvt.rni.s8.f32", "cvt.rni.u8.f32", "cvt.rzi.s16.f32", "cvt.rzi.u16.f32", "cvt.sat.f32.f32"],
    );
    t.plain(1, F32, Exact(0), &["cvt.rna.tf32.f32", "cvt.rn.tf32.f32"]);
    t.plain(
        1,
        Ints,
        Exact(0),
        &["cvt.rn.f32.s32", "cvt.rz.f32.u32", "cvt.rm.f32.s32", "cvt.rp.f32.u32", "cvt.rn.f32.u8", "cvt.rn.f32.s16"],
    );
    t.plain(
        1,
        Bits,
        Exact(0),
        &[
            "cvt.s32.s8",
            "cvt.u32.u8",
            "cvt.s32.s16",
            "cvt.sat.u8.s32",
            "cvt.sat.s8.s32",
            "cvt.sat.s16.u32",
            "cvt.sat.u32.s32",
        ],
    );
    t.plain(
        2,
        F32,
        Exact(16),
        &[
            "cvt.rn.f16x2.f32",
            "cvt.rz.f16x2.f32",
            "cvt.rn.relu.f16x2.f32",
            "cvt.rn.bf16x2.f32",
            "cvt.rz.bf16x2.f32",
            "cvt.rn.relu.bf16x2.f32",
        ],
    );
    for (op, from) in [
        ("cvt.rn.f16.f32", "i0"),
        ("cvt.rz.f16.f32", "i0"),
        ("cvt.rn.bf16.f32", "i0"),
        ("cvt.rn.f16.s32", "i0"),
        ("cvt.rn.f16.u32", "i0"),
    ] {
        let input = if op.ends_with("f32") { F32 } else { Ints };
        t.add(op, 1, 1, input, Exact(16), &format!("{op} %h0, %{from};\nmov.b32 %o0, {{%h0, %h0}};"));
    }
    for op in ["cvt.f32.f16", "cvt.rni.s32.f16", "cvt.rzi.u32.f16", "cvt.rmi.s16.f16"] {
        let out = if op.contains("s16") {
            "cvt.rmi.s16.f16 %h1, %h0;\ncvt.s32.s16 %o0, %h1;".to_string()
        } else {
            format!("{op} %o0, %h0;")
        };
        t.add(op, 1, 1, Half, Exact(32), &format!("mov.b32 {{%h0, %h1}}, %i0;\n{out}"));
    }
    for op in ["cvt.rn.satfinite.e4m3x2.f32", "cvt.rn.satfinite.e5m2x2.f32", "cvt.rn.satfinite.relu.e4m3x2.f32"] {
        t.add(op, 2, 1, F32, Exact(0), &format!("{op} %h0, %i0, %i1;\nmov.b32 %o0, {{%h0, %h0}};"));
    }
    for op in ["cvt.rn.satfinite.e4m3x2.f16x2", "cvt.rn.satfinite.e5m2x2.f16x2"] {
        t.add(op, 1, 1, Half, Exact(0), &format!("{op} %h0, %i0;\nmov.b32 %o0, {{%h0, %h0}};"));
    }
    for op in ["cvt.rn.f16x2.e4m3x2", "cvt.rn.f16x2.e5m2x2"] {
        t.add(op, 1, 1, Fp8, Exact(16), &format!("mov.b32 {{%h0, %h1}}, %i0;\n{op} %o0, %h0;"));
    }
    for op in ["cvt.rn.f64.s64", "cvt.rz.f64.u64"] {
        t.wide(1, Bits, Exact(0), &[op]);
    }
    for op in ["cvt.rni.s64.f64", "cvt.rzi.u64.f64", "cvt.rmi.f64.f64"] {
        t.wide(1, F64, Exact(64), &[op]);
    }
    for op in ["cvt.rn.f32.f64", "cvt.rm.f32.f64", "cvt.rz.f32.f64", "cvt.rni.s32.f64", "cvt.rzi.u32.f64"] {
        t.add(op, 2, 1, F64, Exact(32), &format!("mov.b64 %d0, {{%i0, %i1}};\n{op} %o0, %d0;"));
    }
    for op in ["cvt.rn.f32.s64", "cvt.rz.f32.u64", "cvt.sat.s32.s64"] {
        t.add(op, 2, 1, Bits, Exact(0), &format!("mov.b64 %d0, {{%i0, %i1}};\n{op} %o0, %d0;"));
    }
    for op in ["cvt.f64.f32", "cvt.rzi.s64.f32", "cvt.rni.u64.f32"] {
        t.add(op, 1, 2, F32, Exact(64), &format!("{op} %d0, %i0;\nmov.b64 {{%o0, %o1}}, %d0;"));
    }
    t.plain(2, Bits, Exact(0), &["cvt.pack.sat.s16.s32", "cvt.pack.sat.u16.s32"]);
    t.plain(3, Ints, Exact(0), &["cvt.pack.sat.u8.s32.b32", "cvt.pack.sat.s8.s32.b32"]);
}

fn warps(t: &mut Table) {
    use Input::{Bits, Ints};
    for mode in ["up", "down", "bfly", "idx"] {
        for (i, c) in [0x1f, 0x0, 0x181f, 0x1c07, 0x100f].into_iter().enumerate() {
            let body = format!("shfl.sync.{mode}.b32 %o0|%p0, %i0, %i1, {c}, -1;\nselp.u32 %o1, 1, 0, %p0;");
            t.add(&format!("shfl.{mode}.{i}"), 2, 2, Bits, Exact(0), &body);
        }
    }
    for op in ["add.u32", "min.s32", "max.s32", "min.u32", "max.u32"] {
        t.add(&format!("redux.{op}"), 1, 1, Ints, Exact(0), &format!("redux.sync.{op} %o0, %i0, -1;"));
    }
    for op in ["and", "or", "xor"] {
        t.add(&format!("redux.{op}"), 1, 1, Bits, Exact(0), &format!("redux.sync.{op}.b32 %o0, %i0, -1;"));
    }
    t.add("match.any", 1, 1, Ints, Exact(0), "and.b32 %i0, %i0, 3;\nmatch.any.sync.b32 %o0, %i0, -1;");
    t.add(
        "match.all",
        1,
        2,
        Ints,
        Exact(0),
        "and.b32 %i0, %i0, 0;\nmatch.all.sync.b32 %o0|%p0, %i0, -1;\nselp.u32 %o1, 1, 0, %p0;",
    );
    t.add("vote", 1, 2, Ints, Exact(0), "setp.gt.s32 %p0, %i0, 2;\nvote.sync.ballot.b32 %o0, %p0, -1;\nvote.sync.any.pred %p1, !%p0, -1;\nselp.u32 %o1, 1, 0, %p1;");
    t.add("movmatrix", 1, 1, Bits, Exact(0), "movmatrix.sync.aligned.m8n8.trans.b16 %o0, %i0;");
    for (name, op) in [
        ("ldmatrix", "ldmatrix.sync.aligned.m8n8.x4.shared.b16"),
        ("ldmatrix_trans", "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16"),
    ] {
        let body = format!(
            "st.shared.v4.b32 [%s], {{%i0, %i1, %i2, %i3}};\nbar.warp.sync -1;\n{op} {{%o0, %o1, %o2, %o3}}, [%s];"
        );
        t.add(name, 4, 4, Bits, Exact(0), &body);
    }
    for (name, op) in [
        ("stmatrix", "stmatrix.sync.aligned.m8n8.x4.shared.b16"),
        ("stmatrix_trans", "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16"),
    ] {
        let body = format!(
            "{op} [%s], {{%i0, %i1, %i2, %i3}};\nbar.warp.sync -1;\nld.shared.v4.b32 {{%o0, %o1, %o2, %o3}}, [%s];"
        );
        t.add(name, 4, 4, Bits, Exact(0), &body);
    }
}

fn matrices(t: &mut Table) {
    use Input::{Bf16, Bits, F64Near, Fp8, HalfNear, Near};
    let bits = |ty: &str| match ty {
        "f64" => 64,
        "f32" | "tf32" | "s32" => 32,
        "f16" | "bf16" => 16,
        "u4" | "s4" => 4,
        "b1" => 1,
        _ => 8,
    };
    let shapes: &[(&str, &[[usize; 3]], Input)] = &[
        ("f32.f16.f16.f32", &[[16, 8, 8], [16, 8, 16]], HalfNear),
        ("f16.f16.f16.f16", &[[16, 8, 8], [16, 8, 16]], HalfNear),
        ("f32.bf16.bf16.f32", &[[16, 8, 8], [16, 8, 16]], Bf16),
        ("f32.tf32.tf32.f32", &[[16, 8, 4], [16, 8, 8]], Near),
        ("f32.e4m3.e4m3.f32", &[[16, 8, 32]], Fp8),
        ("f32.e5m2.e4m3.f32", &[[16, 8, 32]], Fp8),
        ("f64.f64.f64.f64", &[[8, 8, 4], [16, 8, 4], [16, 8, 8], [16, 8, 16]], F64Near),
        ("s32.s8.s8.s32", &[[8, 8, 16], [16, 8, 16], [16, 8, 32]], Bits),
        ("s32.u8.s8.s32", &[[8, 8, 16], [16, 8, 16], [16, 8, 32]], Bits),
        ("s32.s4.s4.s32", &[[8, 8, 32], [16, 8, 32], [16, 8, 64]], Bits),
        ("s32.u4.s4.s32", &[[8, 8, 32], [16, 8, 32], [16, 8, 64]], Bits),
        ("s32.b1.b1.s32", &[[8, 8, 128], [16, 8, 128], [16, 8, 256]], Bits),
    ];
    for (types, list, input) in shapes {
        let ty: Vec<&str> = types.split('.').collect();
        let variants: &[(&str, &str)] = match ty[1] {
            "b1" => &[("", ".xor.popc"), ("", ".and.popc")],
            "s8" | "u8" => &[("", ""), (".satfinite", "")],
            _ => &[("", "")],
        };
        for [m, n, k] in *list {
            for (sat, tail) in variants {
                let wide = ty[0] == "f64";
                let regs = |rows: usize, cols: usize, ty: &str| {
                    (rows * cols * bits(ty) / 32).div_ceil(if wide { 64 } else { 32 }).max(1)
                };
                let (ra, rb, rc) = (regs(*m, *k, ty[1]), regs(*k, *n, ty[2]), regs(*m, *n, ty[0]));
                let mut body = String::new();
                let mut at = 0;
                let mut list = |count: usize, body: &mut String| -> String {
                    let names: Vec<String> =
                        (at..at + count).map(|i| if wide { format!("%d{i}") } else { format!("%i{i}") }).collect();
                    if wide {
                        for i in at..at + count {
                            let _ = write!(body, "mov.b64 %d{i}, {{%i{}, %i{}}};\n", 2 * i, 2 * i + 1);
                        }
                    }
                    at += count;
                    format!("{{{}}}", names.join(", "))
                };
                let (a, b, c) = (list(ra, &mut body), list(rb, &mut body), list(rc, &mut body));
                let words = at * if wide { 2 } else { 1 };
                let outs: Vec<String> =
                    (0..rc).map(|i| if wide { format!("%d{}", 40 + i) } else { format!("%o{i}") }).collect();
                let _ = write!(
                    body,
                    "mma.sync.aligned.m{m}n{n}k{k}.row.col{sat}.{types}{tail} {{{}}}, {a}, {b}, {c};\n",
                    outs.join(", ")
                );
                if wide {
                    for i in 0..rc {
                        let _ = write!(body, "mov.b64 {{%o{}, %o{}}}, %d{};\n", 2 * i, 2 * i + 1, 40 + i);
                    }
                }
                let compare = match ty[0] {
                    "f32" => Relative(2e-3 * if ty[1] == "tf32" || ty[1].starts_with('e') { 1.0 } else { 1e-3 }),
                    "f16" => Relative16(2e-3),
                    "f64" => Exact(64),
                    _ => Exact(0),
                };
                let name = format!("mma.m{m}n{n}k{k}{sat}.{types}{tail}");
                t.add(&name, words, rc * if wide { 2 } else { 1 }, *input, compare, &body);
            }
        }
    }
}

/// wgmma on shared memory filled with a hash, by swizzle and by the majors of A and B.
fn warpgroups(t: &mut Table) {
    // Swizzle code of the descriptor, leading and stride byte offsets for K-major and for MN-major operands.
    let layouts = [
        (0u64, [128u64, 512], [1024, 2048]),
        (3, [16, 512], [2048, 4096]),
        (2, [16, 1024], [4096, 1024]),
        (1, [16, 2048], [8192, 1024]),
    ];
    let types: [(&str, usize, &str); 7] = [
        ("f32.f16.f16", 16, "0x8fff8fff"),
        ("f16.f16.f16", 16, "0x8fff8fff"),
        ("f32.bf16.bf16", 16, "0x83ff83ff"),
        ("f32.tf32.tf32", 8, "0x83ffffff"),
        ("f32.e4m3.e5m2", 32, "0xbfbfbfbf"),
        ("s32.s8.s8", 32, "0xffffffff"),
        ("s32.u8.s8", 32, "0xffffffff"),
    ];
    for (types, k, keep) in types {
        let parts: Vec<&str> = types.split('.').collect();
        let set = match parts[1] {
            "f16" => "0x30003000",
            "bf16" => "0x3c003c00",
            "tf32" => "0x3c000000",
            _ => "0",
        };
        let half = matches!(parts[1], "f16" | "bf16");
        let integer = parts[0] == "s32";
        for (swizzle, k_major, mn_major) in layouts {
            for trans in if half { vec![[0, 0], [1, 0], [0, 1], [1, 1]] } else { vec![[0, 0]] } {
                for from_regs in [false, true] {
                    if from_regs && (trans[0] == 1 || swizzle % 2 == 0) {
                        continue;
                    }
                    let n = 96usize;
                    let regs = if parts[0] == "f16" { n / 4 } else { n / 2 };
                    let desc = |at: u64, trans: i32| {
                        let [leading, stride] = if trans == 1 { mn_major } else { k_major };
                        // A second step along K inside the swizzled span, where there is room for one.
                        let at = at + if trans == 0 && swizzle == 1 { 32 } else { 0 };
                        at >> 4 | (leading >> 4) << 16 | (stride >> 4) << 32 | swizzle << 62
                    };
                    let mut body = format!(
                        "mov.u32 %w0, %t;\nmov.u32 %w1, tile;\nFILL: mul.lo.u32 %w2, %w0, 0x9e3779b1;\nshr.u32 %w3, %w2, 15;\nxor.b32 %w2, %w2, %w3;\n\
                         mul.lo.u32 %w2, %w2, 0x85ebca6b;\nshr.u32 %w3, %w2, 13;\nxor.b32 %w2, %w2, %w3;\nand.b32 %w2, %w2, {keep};\nor.b32 %w2, %w2, {set};\n\
                         mad.lo.u32 %w4, %w0, 4, %w1;\nst.shared.b32 [%w4], %w2;\nadd.u32 %w0, %w0, 128;\nsetp.lt.u32 %p0, %w0, 16384;\n@%p0 bra FILL;\n\
                         fence.proxy.async.shared::cta;\nbar.sync 0;\nsetp.eq.u32 %p1, 1, 1;\n"
                    );
                    for i in 0..regs {
                        let _ = if parts[0] == "f32" {
                            write!(body, "mov.f32 %f{i}, 0f3E800000;\n")
                        } else {
                            write!(body, "mov.u32 %v{i}, {};\n", if integer { 7 } else { 0x3400_3400 })
                        };
                    }
                    let class = if parts[0] == "f32" { 'f' } else { 'v' };
                    let list: Vec<String> = (0..regs).map(|i| format!("%{class}{i}")).collect();
                    let a = if from_regs { "{%i0, %i1, %i2, %i3}".to_string() } else { "%d1".to_string() };
                    let tail = match (integer, half, from_regs) {
                        (true, ..) => "%p1".to_string(),
                        (_, true, false) => format!("%p1, -1, 1, {}, {}", trans[0], trans[1]),
                        (_, true, true) => format!("%p1, 1, 1, {}", trans[1]),
                        _ => "%p1, 1, -1".to_string(),
                    };
                    let _ = write!(
                        body,
                        "shr.u32 %w5, %w1, 4;\ncvt.u64.u32 %d3, %w5;\nadd.u64 %d1, %d3, {};\nadd.u64 %d2, %d3, {};\nwgmma.fence.sync.aligned;\n\
                         wgmma.mma_async.sync.aligned.m64n{n}k{k}.{types} {{{}}}, {a}, %d2, {tail};\n\
                         wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n",
                        desc(0, trans[0]),
                        desc(32768, trans[1]),
                        list.join(", ")
                    );
                    for (o, i) in [0, 3, regs / 2 + 1, regs - 1].into_iter().enumerate() {
                        let _ = write!(body, "mov.b32 %o{o}, %{class}{i};\n");
                    }
                    let input = match parts[1] {
                        "f16" => Input::HalfNear,
                        "bf16" => Input::Bf16,
                        "tf32" => Input::Near,
                        "s8" | "u8" => Input::Bits,
                        _ => Input::Fp8,
                    };
                    let compare = match parts[0] {
                        "f32" => Relative(if parts[1] == "e4m3" { 2e-3 } else { 3e-6 }),
                        "f16" => Relative16(2e-3),
                        _ => Exact(0),
                    };
                    let name = format!(
                        "wgmma.{types}.swizzle{swizzle}.{}{}{}",
                        trans[0],
                        trans[1],
                        if from_regs { ".regs" } else { "" }
                    );
                    t.add(&name, 4, 4, input, compare, &body);
                    if let Some(f) = t.0.last_mut() {
                        f.threads = 128;
                    }
                }
            }
        }
    }
}

fn ptx(list: &[Fixture]) -> String {
    let mut out = String::from(".version 8.4\n.target sm_90a\n.address_size 64\n");
    for f in list {
        let _ = write!(
            out,
            ".visible .entry {}(.param .u64 in, .param .u64 out) {{\n.reg .b32 %i<48>; .reg .b32 %o<16>; .reg .b64 %d<64>; .reg .b16 %h<16>;\n\
            .reg .pred %p<4>; .reg .b32 %t; .reg .b32 %s; .reg .b64 %a; .reg .b64 %b; .reg .b64 %off;\n.reg .f32 %f<64>; .reg .b32 %v<64>; .reg .b32 %w<8>; .shared .align 1024 .b8 tile[{}];\n\
            mov.u32 %t, %tid.x;\nmov.u32 %s, tile;\nmad.lo.u32 %s, %t, 16, %s;\nld.param.u64 %a, [in];\nld.param.u64 %b, [out];\n\
            mul.wide.u32 %off, %t, {};\nadd.u64 %a, %a, %off;\nmul.wide.u32 %off, %t, {};\nadd.u64 %b, %b, %off;\n",
            f.name,
            if f.threads == 32 { 512 } else { 65536 },
            4 * f.inputs,
            4 * f.outputs
        );
        for i in 0..f.inputs {
            let _ = write!(out, "ld.global.b32 %i{i}, [%a+{}];\n", 4 * i);
        }
        out += &f.body;
        out += "\n";
        for i in 0..f.outputs {
            let _ = write!(out, "st.global.b32 [%b+{}], %o{i};\n", 4 * i);
        }
        out += "ret;\n}\n";
    }
    out
}

/// One input word; `index` is the word's position in its lane.
fn draw(rng: &mut Rng, input: Input, index: usize) -> u32 {
    let bits = rng.next() as u32;
    let special = rng.below(8);
    match input {
        Input::Bits => bits,
        Input::Ints if special < 2 => bits,
        Input::Ints => (rng.below(80) as i32 - 20) as u32,
        Input::F32 => match special {
            0 => [0, 0x8000_0000, 0x7f80_0000, 0xff80_0000, 0x7fc0_0001, 1, 0x807f_ffff, 0x7f7f_ffff]
                [rng.below(8) as usize],
            1 | 2 => bits,
            _ => (bits & 0x807f_ffff) | ((112 + rng.below(32) as u32) << 23),
        },
        Input::Near => (rng.unit() * 8.0).to_bits(),
        Input::Half if special == 0 => bits & 0x83ff_83ff,
        Input::Half if special == 1 => bits,
        Input::Half => (bits & 0x8fff_8fff) | 0x3000_3000,
        Input::Bf16 => (bits & 0x83ff_83ff) | 0x3c00_3c00,
        Input::HalfNear => (bits & 0x8fff_8fff) | 0x3000_3000,
        Input::Fp8 => bits & 0xbfbf_bfbf,
        Input::F64 if index % 2 == 0 => bits,
        Input::F64 => match special {
            0 => [0, 0x8000_0000, 0x7ff0_0000, 0x7ff8_0000, 1, 0x41e0_0000][rng.below(6) as usize],
            1 => bits,
            _ => (bits & 0x800f_ffff) | ((1000 + rng.below(50) as u32) << 20),
        },
        Input::F64Near if index % 2 == 0 => bits,
        Input::F64Near => (bits & 0x800f_ffff) | ((1018 + rng.below(8) as u32) << 20),
    }
}

fn inputs(f: &Fixture) -> Vec<u32> {
    let seed = f.name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let mut rng = Rng(seed);
    (0..f.threads * f.inputs).map(|i| draw(&mut rng, f.input, i % f.inputs)).collect()
}

fn half(h: u32) -> f32 {
    let (e, m) = ((h >> 10 & 31) as i32, (h & 0x3ff) as f32 / 1024.0);
    let v = if e == 0 { m * 2f32.powi(-14) } else { (1.0 + m) * 2f32.powi(e - 15) };
    if h & 0x8000 != 0 { -v } else { v }
}

fn nan_equal(width: u32, got: &[u32], want: &[u32]) -> bool {
    let nan32 = |v: u32| v & 0x7fff_ffff > 0x7f80_0000;
    // Either half format: a NaN has all exponent bits set; 0x7c01.. is one only in f16, so compare canonical ones.
    let nan16 = |v: u32| v & 0x7fff == 0x7fff;
    match width {
        32 => got.iter().zip(want).all(|(g, w)| g == w || nan32(*g) && nan32(*w)),
        16 => got.iter().zip(want).all(|(g, w)| {
            [0, 16].iter().all(|s| {
                let (g, w) = (g >> s & 0xffff, w >> s & 0xffff);
                g == w || nan16(g) && nan16(w)
            })
        }),
        64 => got.chunks(2).zip(want.chunks(2)).all(|(g, w)| {
            let nan = |v: &[u32]| {
                v.len() == 2 && (v[1] & 0x7fff_ffff > 0x7ff0_0000 || v[1] & 0x7fff_ffff == 0x7ff0_0000 && v[0] != 0)
            };
            g == w || nan(g) && nan(w)
        }),
        _ => got == want,
    }
}

fn agrees(compare: Compare, got: &[u32], want: &[u32], scale: f32) -> bool {
    let order = |v: u32, bits: u32| {
        if v >> (bits - 1) & 1 != 0 { -i64::from(v & ((1 << (bits - 1)) - 1)) } else { i64::from(v) }
    };
    let halves = |v: u32| [v & 0xffff, v >> 16];
    match compare {
        Exact(width) => nan_equal(width, got, want),
        Ulp32(n) => got.iter().zip(want).all(|(g, w)| {
            nan_equal(32, &[*g], &[*w]) || (order(*g, 32) - order(*w, 32)).unsigned_abs() <= u64::from(n)
        }),
        Ulp16(n) => got.iter().zip(want).all(|(g, w)| {
            halves(*g)
                .into_iter()
                .zip(halves(*w))
                .all(|(g, w)| (order(g, 16) - order(w, 16)).unsigned_abs() <= u64::from(n))
        }),
        Relative(r) => got
            .iter()
            .zip(want)
            .all(|(g, w)| nan_equal(32, &[*g], &[*w]) || (f32::from_bits(*g) - f32::from_bits(*w)).abs() <= r * scale),
        Relative16(r) => got
            .iter()
            .zip(want)
            .all(|(g, w)| halves(*g).into_iter().zip(halves(*w)).all(|(g, w)| (half(g) - half(w)).abs() <= r * scale)),
    }
}

fn recorded() -> BTreeMap<String, Vec<u32>> {
    let path = format!("{}/tests/fixtures/recorded.txt", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let parse = |line: &str| {
        let (name, hex) = line.split_once(' ')?;
        let words = hex.as_bytes().chunks(8).map(|c| u32::from_str_radix(std::str::from_utf8(c).ok()?, 16).ok());
        Some((name.to_string(), words.collect::<Option<Vec<_>>>()?))
    };
    text.lines().filter(|l| !l.starts_with('#')).filter_map(parse).collect()
}

#[test]
fn every_fixture_agrees_with_its_recording() {
    let list = table();
    let text = ptx(&list);
    if let Ok(dir) = std::env::var("KILN_SIM_FIXTURES") {
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(format!("{dir}/fixtures.ptx"), &text).unwrap();
        let lines: String = list
            .iter()
            .map(|f| {
                format!(
                    "{} {} {} {}\n",
                    f.name,
                    f.threads,
                    f.outputs,
                    inputs(f).iter().map(|w| format!("{w:08x}")).collect::<String>()
                )
            })
            .collect();
        std::fs::write(format!("{dir}/inputs.txt"), lines).unwrap();
        return;
    }
    let module = Module::parse(&text).unwrap();
    let recorded = recorded();
    let mut wrong = Vec::new();
    for f in &list {
        let kernel = module.kernel(&f.name).unwrap_or_else(|e| panic!("{}: {e}", f.name));
        let want = recorded.get(&f.name).unwrap_or_else(|| panic!("{} is not recorded", f.name));
        let d = Device::default();
        let data = inputs(f);
        let (pi, po) = (put(&d, &data), d.alloc((4 * f.threads * f.outputs) as u64).unwrap());
        let r = d
            .launch(
                &kernel,
                LaunchConfig::linear(1, f.threads as u32),
                &[Arg::U64(pi), Arg::U64(po)],
                &Options::default(),
            )
            .unwrap();
        assert!(r.clean(), "{}: {:?}", f.name, r.findings);
        let got = get::<u32>(&d, po, f.threads * f.outputs);
        let magnitude = |w: &u32| match f.compare {
            Relative16(_) => half(w & 0xffff).abs().max(half(w >> 16).abs()),
            _ => Some(f32::from_bits(*w).abs()).filter(|v| v.is_finite()).unwrap_or(0.0),
        };
        let scale = want.iter().map(magnitude).fold(0.0, f32::max);
        for lane in 0..f.threads {
            let at = lane * f.outputs..(lane + 1) * f.outputs;
            if !agrees(f.compare, &got[at.clone()], &want[at.clone()], scale) {
                let input = &data[lane * f.inputs..(lane + 1) * f.inputs];
                wrong.push(format!(
                    "{} lane {lane}: inputs {input:08x?}, got {:08x?}, recorded {:08x?}",
                    f.name,
                    &got[at.clone()],
                    &want[at]
                ));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {} fixtures disagree:\n{}", wrong.len(), list.len(), wrong.join("\n"));
}
