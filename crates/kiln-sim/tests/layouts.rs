//! The bank conflicts that `kiln-layout` predicts are those that the simulator counts.

use crate::support::{put, run};
use kiln_layout::{Conflicts, RegisterLayout, SharedLayout, SwizzleMode};
use kiln_sim::{Arg, Device, LaunchConfig, Module, Options};

/// A warp that executes one access a row of addresses: (requests, passes) of the simulator.
fn counted(access: &str, addresses: &[u32]) -> (u64, u64) {
    let accesses: String = (0..addresses.len() / 32)
        .map(|i| format!("ld.global.u32 %a, [%p + {}]; add.u32 %a, %a, %s; {access}\n", 128 * i))
        .collect();
    let ptx = format!(
        ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 p) {{\n\
         .reg .b32 %a, %s, %t, %v0, %v1, %v2, %v3; .reg .b64 %p, %q; .shared .align 1024 .b8 s[32768];\n\
         ld.param.u64 %p, [p]; mov.u32 %t, %tid.x; mul.wide.u32 %q, %t, 4; add.u64 %p, %p, %q; mov.u32 %s, s;\n\
         mov.u32 %v0, 1; mov.u32 %v1, 2; mov.u32 %v2, 3; mov.u32 %v3, 4;\n{accesses}ret; }}\n"
    );
    let kernel = Module::parse(&ptx).and_then(|module| module.kernel("k")).unwrap_or_else(|e| panic!("{e}\n{ptx}"));
    let device = Device::default();
    let args = [Arg::U64(put(&device, addresses))];
    let options = Options { counters: true, ..Options::fast() };
    let report = run(&device, &kernel, LaunchConfig::linear(1, 32), &args, &options);
    let total = report.counters.expect("counters were asked for").total;
    (total.shared_requests, total.shared_wavefronts)
}

fn same(found: Conflicts, counted: (u64, u64), what: &str) {
    assert_eq!((u64::from(found.requests), u64::from(found.wavefronts)), counted, "{what}");
}

#[test]
fn predicted_conflicts_are_the_counted_ones() {
    let shape = [64, 128];
    let plain = SharedLayout::row_major(&shape, 2).unwrap();
    let mut all = vec![plain, SharedLayout::padded(&shape, &[1, 0], 8, 2).unwrap()];
    all.extend(SwizzleMode::ALL.map(|mode| SharedLayout::slabs(&shape, &[1, 0], mode, 2).unwrap()));
    let fragment: RegisterLayout = "16x16{2:1@1 2:8@0 2:8@1 | 4:2@1 8:1@0}".parse().unwrap();
    let tiles = [fragment.tile(&shape, &[]).unwrap(), RegisterLayout::blocked(&shape, 64, 8, &[1, 0]).unwrap()];
    let mut conflicts = 0;
    for shared in &all {
        for registers in &tiles {
            for (vector, access) in [
                (2, "st.shared.b32 [%a], %v0;"),
                (4, "st.shared.v2.b32 [%a], {%v0, %v1};"),
                (8, "st.shared.v4.b32 [%a], {%v0, %v1, %v2, %v3};"),
            ] {
                let Some(found) = shared.bank_conflicts(registers, vector) else { continue };
                let firsts = (0..registers.registers()).step_by(vector as usize);
                let threads = 0..registers.threads();
                let at = |first| threads.clone().map(move |thread| shared.offset(&registers.coordinate(first, thread)));
                let addresses: Vec<u32> = firsts.flat_map(at).collect();
                same(found, counted(access, &addresses), &format!("{shared} {registers} {vector}"));
                conflicts += u32::from(!found.is_free());
            }
        }
        for (count, list) in [(1, "{%v0}"), (2, "{%v0, %v1}"), (4, "{%v0, %v1, %v2, %v3}")] {
            let access = shared.matrix_access(&tiles[0], count).unwrap();
            let rows = (0..access.rows.registers()).flat_map(|i| (0..32).map(move |lane| (i, lane)));
            let addresses: Vec<u32> = rows.map(|(i, lane)| shared.offset(&access.row(i, lane))).collect();
            for text in [
                format!("ldmatrix.sync.aligned.m8n8.x{count}.shared.b16 {list}, [%a];"),
                format!("stmatrix.sync.aligned.m8n8.x{count}.shared.b16 [%a], {list};"),
            ] {
                same(access.bank_conflicts(shared), counted(&text, &addresses), &format!("{shared} {text}"));
            }
            conflicts += u32::from(!access.bank_conflicts(shared).is_free());
        }
    }
    assert!(conflicts > 5, "{conflicts}");
}
