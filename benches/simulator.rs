//! What an instruction takes on the simulator, by class: CPU time of one thread.

mod common;

use common::Fail;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion};
use kiln_sim::{Arg, Device, LaunchConfig, Module, Options};
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Instructions of a class in a row: `body` is `unroll` times in the loop.
fn time(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, unroll: u64, body: &str) -> Result<(), Fail> {
    let body = body.repeat(unroll as usize);
    let ptx = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 p, .param .u32 rounds){{\n\
        .reg .b32 %r<40>; .reg .f32 %f<40>; .reg .b64 %rd<8>; .reg .pred %p<4>; .shared .align 16 .b8 s[16384];\n\
        ld.param.u64 %rd1, [p]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 16; add.s64 %rd3, %rd1, %rd2;\n\
        mul.wide.u32 %rd5, %r1, 4; add.s64 %rd5, %rd1, %rd5; mul.wide.u32 %rd6, %r1, 2; add.s64 %rd6, %rd1, %rd6;\n\
        mov.u32 %r3, s; shl.b32 %r4, %r1, 4; add.u32 %r5, %r3, %r4; shl.b32 %r4, %r1, 2; add.u32 %r20, %r3, %r4; mov.u32 %r2, 0;\n\
        add.u32 %r21, %r1, 0x3c003800; ld.param.u32 %r22, [rounds];\n\
        mov.f32 %f1, 0f3F000000; mov.f32 %f2, 0f3F000000; mov.f32 %f3, 0f00000000;\n\
        L: {body} add.u32 %r2, %r2, 1; setp.lt.u32 %p1, %r2, %r22; @%p1 bra L; ret; }}"
    );
    let kernel = Module::parse(&ptx)?.kernel("k")?;
    let device = Device::default();
    let at = device.alloc(1 << 16)?;
    device.fill(at, 0, 1 << 16)?;
    let launch = |rounds: u32| {
        let args = [Arg::U64(at), Arg::U32(rounds)];
        device.launch(&kernel, LaunchConfig::linear(1, 32), &args, &Options::fast())
    };
    launch(1)?;
    group.bench_function(name, |b| {
        // An iteration is one instruction: whole rounds are run, and their time is shared out.
        b.iter_custom(|iterations| {
            let rounds = u32::try_from(iterations.div_ceil(unroll)).unwrap_or(u32::MAX);
            let start = cpu_time();
            // It ran above: what it does does not depend on the number of rounds.
            let _ = launch(rounds);
            (cpu_time() - start).mul_f64(iterations as f64 / (u64::from(rounds) * unroll) as f64)
        });
    });
    Ok(())
}

/// What this thread has run on a processor, which other load disturbs less than the clock on the wall.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

fn main() -> Result<(), Fail> {
    common::run(classes)
}

fn classes(criterion: &mut Criterion) -> Result<(), Fail> {
    let mut group = criterion.benchmark_group("instruction");
    group.sample_size(10);
    let mut time = |name: &str, unroll: u64, body: &str| time(&mut group, name, unroll, body);
    time("fma.rn.f32", 64, "fma.rn.f32 %f3, %f1, %f2, %f3;\n")?;
    time("add.f32", 64, "add.f32 %f4, %f1, %f2;\n")?;
    time("add.s32", 64, "add.s32 %r6, %r1, %r2;\n")?;
    time("mad.lo.s32", 64, "mad.lo.s32 %r6, %r1, %r2, %r1;\n")?;
    time("add.s64", 64, "add.s64 %rd4, %rd1, %rd2;\n")?;
    time("setp.lt.s32", 64, "setp.lt.s32 %p2, %r1, %r2;\n")?;
    time("selp.b32", 64, "selp.b32 %r6, %r1, %r2, %p2;\n")?;
    time("mul.wide.s32", 64, "mul.wide.s32 %rd4, %r1, 4;\n")?;
    time("ex2.approx.ftz.f32", 64, "ex2.approx.ftz.f32 %f4, %f1;\n")?;
    time("cvt.rn.f16x2.f32", 64, "cvt.rn.f16x2.f32 %r6, %f1, %f2;\n")?;
    time("fma.rn.f16x2", 64, "fma.rn.f16x2 %r6, %r21, %r21, %r21;\n")?;
    time("cvt.f32.f16 + max", 32, "cvt.f32.f16 %f4, %r21; max.f32 %f5, %f4, %f3;\n")?;
    time("ld.global.f32", 64, "ld.global.f32 %f4, [%rd5];\n")?;
    time("ld.global.u16", 64, "ld.global.u16 %r6, [%rd6];\n")?;
    time("st.global.f32", 64, "st.global.f32 [%rd5], %f1;\n")?;
    time("ld.shared.f32", 64, "ld.shared.f32 %f4, [%r20];\n")?;
    time("st.shared.f32", 64, "st.shared.f32 [%r20], %f1;\n")?;
    time("ld.global.f32, apart", 64, "ld.global.f32 %f4, [%rd3];\n")?;
    time("ld.global.v4.f32", 64, "ld.global.v4.f32 {%f4,%f5,%f6,%f7}, [%rd3];\n")?;
    time("ld.global.u16, apart", 64, "ld.global.u16 %r6, [%rd3];\n")?;
    time("st.global.f32, apart", 64, "st.global.f32 [%rd3], %f1;\n")?;
    time("ld.shared.f32, apart", 64, "ld.shared.f32 %f4, [%r5];\n")?;
    time("ld.shared.v4.f32", 64, "ld.shared.v4.f32 {%f4,%f5,%f6,%f7}, [%r5];\n")?;
    time("st.shared.f32, apart", 64, "st.shared.f32 [%r5], %f1;\n")?;
    time("st.shared.v4.f32", 64, "st.shared.v4.f32 [%r5], {%f1,%f1,%f2,%f3};\n")?;
    time("cp.async 16", 64, "cp.async.cg.shared.global [%r5], [%rd3], 16;\n")?;
    time("ldmatrix.x4", 64, "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r10,%r11,%r12,%r13}, [%r5];\n")?;
    time("shfl.bfly", 64, "shfl.sync.bfly.b32 %r6, %r1, 4, 31, -1;\n")?;
    time("bar.sync", 64, "bar.sync 0;\n")?;
    time(
        "mma.m16n8k16 f16",
        16,
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f4,%f5,%f6,%f7},{%r10,%r11,%r12,%r13},{%r10,%r11},{%f4,%f5,%f6,%f7};\n",
    )?;
    time(
        "mma.m16n8k8 tf32",
        16,
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f4,%f5,%f6,%f7},{%r10,%r11,%r12,%r13},{%r10,%r11},{%f4,%f5,%f6,%f7};\n",
    )?;
    time(
        "mma.m16n8k32 s8",
        16,
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%r14,%r15,%r16,%r17},{%r10,%r11,%r12,%r13},{%r10,%r11},{%r14,%r15,%r16,%r17};\n",
    )?;
    group.finish();
    Ok(())
}
