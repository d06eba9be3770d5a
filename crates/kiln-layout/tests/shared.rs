//! Shared-memory layouts against enumeration, plain banks, and what TMA, wgmma and ldmatrix do.

use kiln_layout::{
    Conflicts, LayoutError, Major, RegisterLayout, SharedLayout, Step, Swizzle, SwizzleMode, wavefronts,
};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn coordinates(shape: &[u32]) -> Vec<Vec<u32>> {
    let mut all = vec![Vec::new()];
    for extent in shape {
        all = all.into_iter().flat_map(|at| (0..*extent).map(move |i| [at.clone(), vec![i]].concat())).collect();
    }
    all
}

fn layouts() -> Vec<SharedLayout> {
    let mut all = Vec::new();
    for bytes in [1, 2, 4] {
        for shape in [[64, 64], [128, 80], [8, 192], [256, 32], [48, 256], [320, 128]] {
            all.push(SharedLayout::row_major(&shape, bytes).unwrap());
            all.push(SharedLayout::column_major(&shape, bytes).unwrap());
            all.push(SharedLayout::padded(&shape, &[1, 0], 16 / bytes, bytes).unwrap());
            for order in [[1, 0], [0, 1]] {
                all.extend(
                    SwizzleMode::ALL
                        .into_iter()
                        .filter_map(|mode| SharedLayout::slabs(&shape, &order, mode, bytes).ok()),
                );
            }
            all.push(SharedLayout::row_major(&shape, bytes).unwrap().swizzled(Swizzle::new(3, 4, 3).unwrap()).unwrap());
            all.push(SharedLayout::row_major(&shape, bytes).unwrap().swizzled(Swizzle::new(2, 4, 4).unwrap()).unwrap());
        }
        all.push(SharedLayout::slabs(&[3, 16, 64], &[2, 1, 0], SwizzleMode::B64, bytes).unwrap());
    }
    assert!(all.len() > 100);
    all
}

#[test]
fn no_two_elements_share_bytes_and_all_are_inside() {
    for layout in layouts() {
        let bytes = layout.element_bytes();
        let at: BTreeSet<u32> = coordinates(&layout.shape()).iter().map(|at| layout.offset(at)).collect();
        assert_eq!(at.len() as u32, layout.shape().iter().product::<u32>(), "{layout}");
        assert!(at.iter().all(|at| at % bytes == 0 && at + bytes <= layout.bytes()), "{layout}");
        let staged = layout.staged(3).unwrap();
        assert_eq!(staged.stage_bytes() % staged.alignment(), 0);
        assert!(
            staged.stage_bytes() >= layout.bytes() && staged.total_bytes() == 2 * staged.stage_bytes() + layout.bytes()
        );
        for layout in [layout, staged] {
            assert_eq!(layout.to_string().parse::<SharedLayout>().unwrap(), layout);
            let json = serde_json::to_string(&layout).unwrap();
            assert_eq!(serde_json::from_str::<SharedLayout>(&json).unwrap(), layout);
        }
    }
    let text = SharedLayout::slabs(&[128, 128], &[1, 0], SwizzleMode::B128, 2).unwrap().staged(4).unwrap().to_string();
    assert_eq!(text, "2B{128:64 | 64:1 2:8192}^3,4,3*4");
    let alignment = |mode| SharedLayout::slabs(&[64, 64], &[1, 0], mode, 2).unwrap().alignment();
    assert_eq!(SwizzleMode::ALL.map(alignment), [128, 256, 512, 1024]);
}

#[test]
fn vectors_lie_together_and_aligned_and_no_longer_ones_do() {
    for layout in layouts() {
        for axis in 0..layout.axes().len() {
            let extent = layout.shape()[axis];
            let together = |run: u32| {
                let heads = coordinates(&layout.shape()).into_iter().filter(|at| at[axis] % run == 0);
                heads.take(4096).all(|head| {
                    let first = layout.offset(&head);
                    let run_of = |i| {
                        let mut next = head.clone();
                        next[axis] += i;
                        layout.offset(&next) == first + i * layout.element_bytes()
                    };
                    first % (run * layout.element_bytes()) == 0 && (0..run).all(run_of)
                })
            };
            let run = layout.contiguous(axis);
            assert!(extent % run == 0 && together(run), "{layout} axis {axis}: {run}");
            let longer = [2 * run, 3 * run].into_iter().filter(|longer| extent % longer == 0);
            assert!(longer.into_iter().all(|longer| !together(longer)), "{layout} axis {axis}: {run}");
        }
    }
}

#[test]
fn overlaps_and_other_mistakes_are_refused() {
    let two = [vec![Step { extent: 64, stride: 32 }], vec![Step { extent: 64, stride: 1 }]];
    assert!(matches!(SharedLayout::new(&two, 2, Swizzle::NONE, 1), Err(LayoutError::Overlap { next: 32, .. })));
    for (text, message) in [
        ("3B{8:1}", "bytes of an element"),
        ("2B{8:0}", "stride"),
        ("2B{8:1}*0", "stages"),
        ("2B{8:1}^4,4,3", "swizzle"),
        ("2B{8:1}^3,4", "expected a text"),
        ("4B{8:1}^3,1,3", "chunk"),
        ("2B{4294967295:1 | 4294967295:4294967295}", "bytes of all stages"),
    ] {
        let error = text.parse::<SharedLayout>().unwrap_err().to_string();
        assert!(error.contains(message), "{text}: {error}");
    }
    assert!(SharedLayout::slabs(&[64, 80], &[1, 0], SwizzleMode::B128, 2).is_err());
}

#[test]
fn swizzles_are_involutions_within_their_windows() {
    for (bits, base, shift) in [(0, 4, 3), (1, 4, 3), (2, 4, 3), (3, 4, 3), (3, 2, 5), (2, 3, 2)] {
        let swizzle = Swizzle::new(bits, base, shift).unwrap();
        for address in 0..8192 {
            let moved = swizzle.apply(address);
            assert_eq!(swizzle.apply(moved), address);
            assert_eq!(moved / swizzle.window(), address / swizzle.window());
            assert_eq!(moved % swizzle.chunk(), address % swizzle.chunk());
            assert_eq!(swizzle.apply(address + swizzle.period()), moved + swizzle.period());
            // Bit by bit.
            let bit = |i| {
                let crossed = (base..base + bits).contains(&i);
                address >> i & 1 ^ if crossed { address >> (i + shift) & 1 } else { 0 }
            };
            assert_eq!(moved, (0..24).map(|i| bit(i) << i).sum::<u32>());
        }
    }
    assert_eq!(SwizzleMode::ALL.map(|mode| mode.swizzle().mode()), SwizzleMode::ALL.map(Some));
    assert_eq!(Swizzle::new(2, 4, 4).unwrap().mode(), None);
    assert_eq!(SwizzleMode::B128.swizzle().apply(0x380), 0x3f0);
}

#[test]
fn tma_boxes_write_what_offsets_read() {
    let mut many = 0;
    for layout in layouts() {
        let Some(tma) = layout.tma_box() else { continue };
        let bytes = layout.element_bytes();
        let mut written = BTreeSet::new();
        for place in &tma.boxes {
            assert_eq!(place.offset % 128, 0, "{layout}");
            // The box is dense, the tensor map's first axis fastest.
            for (i, at) in coordinates(&tma.order.iter().rev().map(|axis| tma.extents[*axis]).collect::<Vec<_>>())
                .iter()
                .enumerate()
            {
                let mut element = place.origin.clone();
                at.iter().rev().zip(&tma.order).for_each(|(i, axis)| element[*axis] += i);
                let to = tma.swizzle.swizzle().apply(place.offset + i as u32 * bytes);
                assert_eq!(layout.offset(&element), to, "{layout} {element:?}");
                written.insert(element);
            }
        }
        assert_eq!(written.len() as u32, layout.shape().iter().product::<u32>(), "{layout}");
        assert_eq!(tma.bytes, bytes * tma.extents.iter().product::<u32>());
        let inner = tma.extents[tma.order[0]] * bytes;
        assert!(inner % 16 == 0 && (tma.swizzle == SwizzleMode::None || inner == tma.swizzle.span()), "{layout}");
        assert!(tma.extents.iter().all(|extent| *extent <= 256), "{layout}");
        many += 1;
    }
    assert!(many > 80, "{many}");
}

#[test]
fn tma_boxes_are_those_of_the_kernels_that_ran() {
    let tma = |text: &str| text.parse::<SharedLayout>().unwrap().tma_box();
    // A of a product: 128 x 64 of 16 bits in one box; values of attention: two slabs.
    let one = tma("2B{128:64 | 64:1}^3,4,3").unwrap();
    assert_eq!((one.extents, one.order, one.boxes.len(), one.bytes), (vec![128, 64], vec![1, 0], 1, 16384));
    let two = tma("2B{128:64 | 64:1 2:8192}^3,4,3").unwrap();
    assert_eq!(
        two.boxes.iter().map(|place| (place.origin.clone(), place.offset)).collect::<Vec<_>>(),
        [(vec![0, 0], 0), (vec![0, 64], 16384)]
    );
    // More than 256 rows take two boxes, and nothing else does.
    assert_eq!(tma("2B{320:64 | 64:1}^3,4,3").unwrap().extents, [160, 64]);
    for (none, why) in [
        ("2B{64:72 | 64:1}", "rows of 144 bytes"),
        ("2B{64:64 | 64:1}^3,4,4", "no hardware swizzle"),
        ("2B{64:32 | 32:1}^3,4,3", "narrower than the span"),
        ("2B{64:4 | 4:1}", "rows of 8 bytes"),
        ("2B{64:2 | 64:128}", "no neighbours"),
    ] {
        assert_eq!(tma(none), None, "{why}");
    }
}

/// Canonical layouts in CuTe's notation, units of 16 bytes, before the swizzle (`mma_traits_sm90_gmma.hpp`): ((rows in a piece, pieces),
/// (rows in a group, groups)) with their strides; `dense` counts along the major axis in 16 bytes, `across` along the other.
fn canonical(major: Major, swizzle: SwizzleMode, (lbo, sbo): (u32, u32), dense: u32, across: u32) -> u32 {
    let width = match swizzle {
        SwizzleMode::None => 1,
        SwizzleMode::B32 => 2,
        SwizzleMode::B64 => 4,
        SwizzleMode::B128 => 8,
    };
    match (major, swizzle) {
        // ((8,n),2) : ((1,SBO),LBO)
        (Major::K, SwizzleMode::None) => across % 8 + across / 8 * sbo + dense * lbo,
        // ((8,n),2) : ((T,SBO),1)
        (Major::K, _) => across % 8 * width + across / 8 * sbo + dense,
        // ((1,n),(8,k)) : ((X,SBO),(1,LBO))
        (Major::Mn, SwizzleMode::None) => dense * sbo + across % 8 + across / 8 * lbo,
        // ((T,n),(8,k)) : ((1,LBO),(T,SBO))
        (Major::Mn, _) => dense % width + dense / width * lbo + across % 8 * width + across / 8 * sbo,
    }
}

#[test]
fn descriptors_read_the_operand() {
    let mut found = BTreeSet::new();
    for layout in layouts() {
        let shape = layout.shape();
        for extent in [64, 80, 128, 256, 192, 8] {
            let Some(descriptor) = layout.wgmma_descriptor(0, 1, extent) else { continue };
            let bytes = layout.element_bytes();
            let bits = descriptor.bits();
            let field = |at: u32| (bits >> at & 0x3fff) as u32;
            let swizzle =
                [SwizzleMode::None, SwizzleMode::B128, SwizzleMode::B64, SwizzleMode::B32][(bits >> 62) as usize];
            for at in coordinates(&shape) {
                let each = 32 / bytes;
                let start =
                    descriptor.mn_offsets[(at[0] / extent) as usize] + descriptor.k_offsets[(at[1] / each) as usize];
                let (mn, k) = (at[0] % extent, at[1] % each);
                let (dense, across) = if descriptor.major == Major::K { (k, mn) } else { (mn, k) };
                let unit = canonical(descriptor.major, swizzle, (field(16), field(32)), dense * bytes / 16, across);
                let address = swizzle.swizzle().apply(start + 16 * unit + dense * bytes % 16);
                assert_eq!(layout.offset(&at), address, "{layout} {descriptor:?} {at:?}");
            }
            found.insert((format!("{:?}", descriptor.major), swizzle, bytes));
        }
    }
    // Every swizzle K-major for each width, and MN-major for 16 bits.
    assert_eq!(found.len(), 4 * 3 + 4, "{found:?}");
}

#[test]
fn descriptors_are_those_of_the_kernels_that_ran() {
    let layout = |text: &str| text.parse::<SharedLayout>().unwrap();
    // hopper gemm: desc(a) = a >> 4 | 1 << 16 | 64 << 32 | 1 << 62; 32 bytes a step of k; 8192 bytes for the second warpgroup.
    let a = layout("2B{128:64 | 64:1}^3,4,3").wgmma_descriptor(0, 1, 64).unwrap();
    assert_eq!(a.bits(), 1 << 16 | 64 << 32 | 1 << 62);
    assert_eq!((a.major, a.k_offsets, a.mn_offsets), (Major::K, vec![0, 32, 64, 96], vec![0, 8192]));
    // Attention with heads of 128 and 128 keys a tile. Keys: (x >> 2) * BN * 128 + (x & 3) * 32.
    let keys = layout("2B{128:64 | 64:1 2:8192}^3,4,3").wgmma_descriptor(0, 1, 128).unwrap();
    assert_eq!(keys.bits(), 1 << 16 | 64 << 32 | 1 << 62);
    assert_eq!(keys.k_offsets, (0..8).map(|x| (x >> 2) * 128 * 128 + (x & 3) * 32).collect::<Vec<u32>>());
    // Values, N-major: leading offset BN * 8 units, 2048 bytes a step of k.
    let values = layout("2B{128:64 | 64:1 2:8192}^3,4,3").wgmma_descriptor(1, 0, 128).unwrap();
    assert_eq!(values.bits(), (128 * 8) << 16 | 64 << 32 | 1 << 62);
    assert_eq!((values.major, values.mn_offsets), (Major::Mn, vec![0]));
    assert_eq!(values.k_offsets, (0..8).map(|x| x * 2048).collect::<Vec<u32>>());
    // MN-major of other widths, rows that are padded, extents that are no multiples of 8, swizzles of no mode: none.
    for none in ["1B{128:128 | 128:1}^3,4,3", "4B{32:32 | 32:1}^3,4,3"] {
        assert_eq!(layout(none).wgmma_descriptor(1, 0, 32), None, "{none}");
    }
    for none in [
        "2B{64:72 | 64:1}",
        "2B{64:64 | 64:1}",
        "2B{64:64 | 64:1}^3,4,4",
        "2B{68:64 | 64:1}^3,4,3",
        "2B{64:64 | 8:1}^3,4,3",
    ] {
        assert_eq!(layout(none).wgmma_descriptor(0, 1, if none.contains("68") { 68 } else { 64 }), None, "{none}");
    }
}

/// Serves banks pass by pass: of each, one word that is still wanted.
fn plain_passes(addresses: &[u32], bytes: u32) -> u32 {
    let lanes = if bytes <= 4 {
        32
    } else if bytes == 8 {
        16
    } else {
        8
    };
    let mut passes = 0;
    for part in addresses.chunks(lanes) {
        let mut wanted: BTreeSet<u32> = part.iter().flat_map(|at| (*at..at + bytes).map(|byte| byte / 4)).collect();
        while !wanted.is_empty() {
            let mut busy = BTreeSet::new();
            wanted.retain(|word| !busy.insert(word % 32));
            passes += 1;
        }
    }
    passes
}

#[test]
fn conflicts_are_those_of_plain_banks() {
    let mut counted = 0;
    for shared in layouts().into_iter().filter(|shared| shared.axes().len() == 2) {
        let shape = shared.shape();
        let mut held: Vec<RegisterLayout> = [[1, 0], [0, 1]]
            .iter()
            .map(|order| RegisterLayout::blocked(&shape, 64, 16 / shared.element_bytes(), order).unwrap())
            .collect();
        let fragment: RegisterLayout = "16x8{2:1@1 2:8@0 | 4:2@1 8:1@0}".parse().unwrap();
        held.extend(fragment.tile(&shape, &[]).ok());
        for registers in &held {
            for vector in [1, 2, 4, 8, 16] {
                let Some(found) = shared.bank_conflicts(registers, vector) else { continue };
                let mut passes = 0;
                for first in (0..registers.registers()).step_by(vector as usize) {
                    for warp in 0..registers.threads() / 32 {
                        let addresses: Vec<u32> =
                            (0..32).map(|lane| shared.offset(&registers.coordinate(first, 32 * warp + lane))).collect();
                        passes += plain_passes(&addresses, vector * shared.element_bytes());
                    }
                }
                assert_eq!(found.wavefronts, passes, "{shared} {registers} {vector}");
                assert!(found.ideal <= found.wavefronts && found.requests <= found.ideal, "{shared} {registers}");
                counted += 1;
            }
        }
    }
    assert!(counted > 500, "{counted}");
}

#[test]
fn swizzles_and_padding_take_conflicts_away() {
    let fragment: RegisterLayout = "16x16{2:1@1 2:8@0 2:8@1 | 4:2@1 8:1@0}".parse().unwrap();
    let registers = fragment.tile(&[64, 64], &[]).unwrap();
    let plain = SharedLayout::row_major(&[64, 64], 2).unwrap();
    for (shared, free) in [
        (plain.clone(), false),
        (SharedLayout::padded(&[64, 64], &[1, 0], 8, 2).unwrap(), true),
        (plain.swizzled(SwizzleMode::B128.swizzle()).unwrap(), true),
    ] {
        assert_eq!(shared.bank_conflicts(&registers, 2).unwrap().is_free(), free, "{shared}");
        let access = shared.matrix_access(&registers, 4).unwrap();
        assert_eq!(access.bank_conflicts(&shared).is_free(), free, "{shared}");
        assert_eq!(shared.bank_conflicts(&registers, 4), None);
    }
    // Eight rows of 128 bytes: one bank group each without a swizzle.
    let access = plain.matrix_access(&registers, 4).unwrap();
    let found = access.bank_conflicts(&plain);
    assert_eq!(found, Conflicts { requests: 16, wavefronts: 16 * 32, ideal: 16 * 4 });
    assert_eq!(wavefronts(&[0; 32], 4), Conflicts { requests: 1, wavefronts: 1, ideal: 1 });
}

/// What ldmatrix gives lane `lane` of matrix rows at these addresses: for each register the bytes of its word.
fn ldmatrix(rows: &[u32], trans: bool, matrix: usize, lane: u32) -> [u32; 4] {
    let row = |r: u32| rows[8 * matrix + r as usize];
    let (group, pair) = (lane / 4, lane % 4);
    if trans {
        let half = |r: u32| row(r) + 2 * group;
        let (low, high) = (half(2 * pair), half(2 * pair + 1));
        [low, low + 1, high, high + 1]
    } else {
        [0, 1, 2, 3].map(|byte| row(group) + 4 * pair + byte)
    }
}

#[test]
fn ldmatrix_loads_the_fragment() {
    let mut loads = 0;
    let cases = [
        (2, "16x16{2:1@1 2:8@0 2:8@1 | 4:2@1 8:1@0}"),
        (2, "16x8{2:1@0 2:8@0 | 4:2@0 8:1@1}"),
        (2, "16x8{2:1@1 2:8@0 | 4:2@1 8:1@0}"),
        (1, "16x32{4:1@1 2:8@0 2:16@1 | 4:4@1 8:1@0}"),
        (1, "32x8{4:1@0 2:16@0 | 4:4@0 8:1@1}"),
        (4, "16x8{2:8@0 2:4@1 | 4:1@1 8:1@0}"),
    ];
    for (bytes, text) in cases {
        let fragment: RegisterLayout = text.parse().unwrap();
        for (shape, deals) in [
            ([64, 64], vec![]),
            ([192, 96], vec![kiln_layout::Deal::Along(1, 2), kiln_layout::Deal::Along(0, 2)]),
            ([64, 160], vec![kiln_layout::Deal::Copies(2), kiln_layout::Deal::Along(0, 2)]),
        ] {
            let Ok(registers) = fragment.tile(&shape, &deals) else { continue };
            for order in [[1, 0], [0, 1]] {
                for mode in SwizzleMode::ALL {
                    let Ok(shared) = SharedLayout::slabs(&shape, &order, mode, bytes) else { continue };
                    for count in [1, 2, 4] {
                        let Some(access) = shared.matrix_access(&registers, count) else {
                            // Only what would transpose elements that are not 16 bits wide.
                            assert!(
                                bytes != 2 && registers.contiguous(order[0]) * bytes < 4 || bytes == 4 || count == 4,
                                "{registers} {shared}"
                            );
                            continue;
                        };
                        loads += 1;
                        let per = 4 / bytes;
                        for instruction in 0..access.rows.registers() {
                            for thread in 0..registers.threads() {
                                let warp = thread / 32;
                                let rows: Vec<u32> = (0..8 * count)
                                    .map(|lane| shared.offset(&access.row(instruction, 32 * warp + lane)))
                                    .collect();
                                for matrix in 0..count {
                                    let got = ldmatrix(&rows, access.trans, matrix as usize, thread % 32);
                                    for element in 0..per {
                                        let register = (instruction * count + matrix) * per + element;
                                        let want = shared.offset(&registers.coordinate(register, thread));
                                        assert_eq!(
                                            got[(element * bytes) as usize],
                                            want,
                                            "{registers} {shared} {count}"
                                        );
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    assert!(loads > 100, "{loads}");
}

proptest! {
    #[test]
    fn random_steps_do_not_overlap_or_are_refused(
        steps in proptest::collection::vec((1u32..6, 1u32..64, 0usize..2), 0..5), bits in 0u32..4
    ) {
        let mut axes = [Vec::new(), Vec::new()];
        steps.iter().for_each(|(extent, stride, axis)| axes[*axis].push(Step { extent: *extent, stride: *stride }));
        let swizzle = Swizzle::new(bits, 4, 3).unwrap();
        if let Ok(layout) = SharedLayout::new(&axes, 2, swizzle, 2) {
            let at: BTreeSet<u32> = coordinates(&layout.shape()).iter().map(|at| layout.offset(at)).collect();
            prop_assert_eq!(at.len() as u32, layout.shape().iter().product::<u32>());
            prop_assert!(at.iter().all(|at| at + 2 <= layout.bytes()));
            prop_assert_eq!(layout.to_string().parse::<SharedLayout>().unwrap(), layout);
        }
    }

    #[test]
    fn passes_equal_plain_banks(words in proptest::collection::vec(0u32..512, 32), width in 0u32..5) {
        let bytes = 1 << width;
        let addresses: Vec<u32> = words.iter().map(|word| word * bytes).collect();
        prop_assert_eq!(wavefronts(&addresses, bytes).wavefronts, plain_passes(&addresses, bytes));
    }

    #[test]
    fn texts_never_panic(text in "[0-9]{0,2}B\\{[0-9: |]{0,24}\\}(\\^[0-9,]{0,6})?(\\*[0-9]{0,10})?") {
        let _ = text.parse::<SharedLayout>();
    }
}
