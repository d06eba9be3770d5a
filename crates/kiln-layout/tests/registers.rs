//! Register layouts against enumeration.

use kiln_layout::{Conversion, Deal, LayoutError, Mode, RegisterLayout, conversion};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn parse(text: &str) -> RegisterLayout {
    text.parse().unwrap()
}

/// Fragments of instructions (PTX ISA), and their tiles.
const FRAGMENTS: [&str; 12] = [
    "16x8{2:1@1 2:8@0 | 4:2@1 8:1@0}",
    "16x16{2:1@1 2:8@0 2:8@1 | 4:2@1 8:1@0}",
    "16x4{2:8@0 | 4:1@1 8:1@0}",
    "16x8{2:8@0 2:4@1 | 4:1@1 8:1@0}",
    "16x32{4:1@1 2:8@0 2:16@1 | 4:4@1 8:1@0}",
    "16x8{2:1@0 2:8@0 | 4:2@0 8:1@1}",
    "32x8{4:1@0 2:16@0 | 4:4@0 8:1@1}",
    "8x8{2:1@1 | 4:2@1 8:1@0}",
    "8x4{ | 4:1@1 8:1@0}",
    "64x8{2:1@1 2:8@0 | 4:2@1 8:1@0 4:16@0}",
    "64x16{2:1@1 2:8@0 2:8@1 | 4:2@1 8:1@0 4:16@0}",
    "1x1{ | }",
];

/// Layouts of tiles that are no powers of two among them.
fn layouts() -> Vec<RegisterLayout> {
    let mut all: Vec<RegisterLayout> = FRAGMENTS.iter().map(|text| parse(text)).collect();
    for fragment in all.clone() {
        let (m, n) = (fragment.shape()[0], fragment.shape()[1]);
        for (rows, columns) in [(2, 10), (1, 12), (3, 5), (1, 1)] {
            all.push(fragment.tile(&[rows * m, columns * n], &[]).unwrap());
            if rows % 2 == 0 {
                let deals = [Deal::Copies(2), Deal::Along(0, 2), Deal::Along(1, columns)];
                all.push(fragment.tile(&[rows * m, columns * n], &deals).unwrap());
            }
        }
    }
    for shape in [[32, 64], [80, 48], [16, 176], [7, 3], [1, 200], [64, 1]] {
        for (threads, vector) in [(128, 8), (32, 1), (96, 4), (1, 16)] {
            for order in [[1, 0], [0, 1]] {
                all.push(RegisterLayout::blocked(&shape, threads, vector, &order).unwrap());
            }
        }
    }
    all.push(RegisterLayout::thread_local(&[3, 5], 64).unwrap());
    all
}

/// Every (register, thread) of each element.
fn enumerate(layout: &RegisterLayout) -> BTreeMap<Vec<u32>, Vec<(u32, u32)>> {
    let mut held: BTreeMap<Vec<u32>, Vec<(u32, u32)>> = BTreeMap::new();
    for register in 0..layout.registers() {
        for thread in 0..layout.threads() {
            held.entry(layout.coordinate(register, thread)).or_default().push((register, thread));
        }
    }
    held
}

fn check_exact(layout: &RegisterLayout) {
    let held = enumerate(layout);
    assert_eq!(held.len() as u32, layout.shape().iter().product::<u32>(), "{layout}");
    for (at, holders) in &held {
        assert!(at.iter().zip(layout.shape()).all(|(at, extent)| at < extent), "{layout} at {at:?}");
        assert_eq!(holders.len() as u32, layout.replication(), "{layout} at {at:?}");
        assert_eq!(&layout.holders(at), holders, "{layout} at {at:?}");
        let owners: BTreeSet<u32> =
            holders.iter().map(|holder| holder.1).filter(|thread| layout.owner(*thread)).collect();
        assert_eq!(owners.len(), 1, "{layout} at {at:?}");
    }
    assert_eq!(&parse(&layout.to_string()), layout);
    let json = serde_json::to_string(layout).unwrap();
    assert_eq!(&serde_json::from_str::<RegisterLayout>(&json).unwrap(), layout);
}

#[test]
fn layouts_hold_each_element_equally_often_and_find_its_holders() {
    for layout in layouts() {
        check_exact(&layout);
        assert!(layout.holders(layout.shape()).is_empty());
    }
}

#[test]
fn a_vector_is_as_many_neighbours_from_a_multiple_of_it() {
    for layout in layouts() {
        for axis in 0..2 {
            let run = layout.contiguous(axis);
            let neighbours = |run: u32| {
                (0..layout.registers()).step_by(run as usize).all(|first| {
                    (0..layout.threads().min(64)).all(|thread| {
                        let start = layout.coordinate(first, thread);
                        start[axis] % run == 0
                            && (0..run.min(layout.registers() - first)).all(|i| {
                                let mut next = start.clone();
                                next[axis] += i;
                                layout.coordinate(first + i, thread) == next
                            })
                    })
                })
            };
            assert!(layout.registers() % run == 0 && neighbours(run), "{layout} axis {axis}");
            let longer = (run + 1..=layout.registers()).filter(|longer| layout.registers() % longer == 0);
            assert!(longer.into_iter().all(|longer| !neighbours(longer)), "{layout} axis {axis}");
        }
    }
}

#[test]
fn blocked_deals_runs_to_threads_and_repeats() {
    let text =
        |shape: &[u32], threads, vector| RegisterLayout::blocked(shape, threads, vector, &[1, 0]).unwrap().to_string();
    assert_eq!(text(&[128, 64], 128, 8), "128x64{8:1@1 8:16@0 | 8:8@1 16:1@0}");
    assert_eq!(text(&[8, 64], 128, 8), "8x64{8:1@1 | 8:8@1 8:1@0 2:0}");
    assert_eq!(text(&[1, 96], 32, 4), "1x96{4:1@1 3:32@1 | 8:4@1 4:0}");
    assert_eq!(text(&[4, 6], 32, 4), "4x6{6:1@1 | 4:1@0 8:0}");
    assert!(RegisterLayout::blocked(&[8, 8], 0, 1, &[1, 0]).is_err());
    assert!(RegisterLayout::blocked(&[8, 0], 32, 1, &[1, 0]).is_err());
    assert!(RegisterLayout::blocked(&[8, 8], 32, 1, &[1, 1]).is_err());
}

#[test]
fn tiles_divide_into_their_fragments_again() {
    for text in FRAGMENTS {
        let fragment = parse(text);
        let (m, n) = (fragment.shape()[0], fragment.shape()[1]);
        for deals in [vec![], vec![Deal::Along(1, 2), Deal::Along(0, 4)], vec![Deal::Copies(3), Deal::Along(0, 2)]] {
            let tile = fragment.tile(&[8 * m, 10 * n], &deals).unwrap();
            let grid = tile.divide(&fragment).unwrap();
            assert_eq!(grid.shape(), [8, 10]);
            assert_eq!(fragment.compose(&grid).unwrap(), tile);
            // A warp's fragments are neighbours.
            let per_warp = grid.registers();
            let warps: u32 = deals
                .iter()
                .map(|deal| match deal {
                    Deal::Along(_, n) | Deal::Copies(n) => *n,
                })
                .product();
            assert_eq!((grid.threads(), tile.registers()), (warps, per_warp * fragment.registers()));
            for register in 0..tile.registers() {
                let place = grid.coordinate(register / fragment.registers(), 0);
                let inside = fragment.coordinate(register % fragment.registers(), 0);
                assert_eq!(tile.coordinate(register, 0), [place[0] * m + inside[0], place[1] * n + inside[1]]);
            }
        }
        assert!(n == 1 || fragment.tile(&[m, n + 1], &[]).is_err());
        assert!(fragment.tile(&[2 * m, n], &[Deal::Along(0, 4)]).is_err());
    }
    let accumulator = parse("64x256{2:1@1 2:8@0 32:8@1 | 4:2@1 8:1@0 4:16@0}");
    let grid = accumulator.divide(&parse(FRAGMENTS[9])).unwrap();
    assert_eq!(grid.to_string(), "1x32{32:1@1 | }");
    // A warp of mma.sync holds a quarter of the same rows.
    assert_eq!(accumulator.divide(&parse(FRAGMENTS[0])).unwrap().to_string(), "4x32{32:1@1 | 4:1@0}");
    assert_eq!(accumulator.divide(&parse(FRAGMENTS[5])), None);
    assert_eq!(parse("80x8{2:1@1 10:8@0 | 4:2@1 8:1@0}").divide(&parse(FRAGMENTS[0])).unwrap().shape(), [5, 1]);
}

#[test]
fn reductions_leave_slices_that_broadcast_back_in_registers() {
    for layout in layouts() {
        for axis in 0..2 {
            let slice = layout.slice(axis).unwrap();
            check_exact(&slice);
            assert_eq!(slice.threads(), layout.threads());
            for thread in 0..layout.threads() {
                let rows = |held: &RegisterLayout| -> BTreeSet<u32> {
                    (0..held.registers()).map(|register| held.coordinate(register, thread)[1 - axis]).collect()
                };
                assert_eq!(rows(&slice), rows(&layout), "{layout}");
            }
            let back = slice.broadcast(axis, layout.shape()[axis]).unwrap();
            if back.registers() * back.threads() <= 1 << 14 {
                check_exact(&back);
            }
            let from = |register: u32, thread| slice.coordinate(register % slice.registers(), thread);
            for register in 0..layout.registers() {
                let source = match conversion(&back, &layout).unwrap() {
                    Conversion::None => register,
                    Conversion::Registers(moves) => moves[register as usize],
                    other if layout.thread_modes() == back.thread_modes() => panic!("{layout}: {other:?}"),
                    // Threads that shared the axis now each hold all of it.
                    _ => continue,
                };
                let mut expected = layout.coordinate(register, 1 % layout.threads());
                expected[axis] = 0;
                assert_eq!(from(source, 1 % layout.threads()), expected, "{layout}");
            }
        }
    }
    assert!(parse(FRAGMENTS[0]).broadcast(0, 4).is_err());
    assert!(parse(FRAGMENTS[0]).slice(2).is_err());
}

#[test]
fn transposing_twice_is_nothing() {
    for layout in layouts() {
        let turned = layout.transpose(&[1, 0]).unwrap();
        check_exact(&turned);
        for (register, thread) in
            [(0, 0), (layout.registers() - 1, layout.threads() - 1), (layout.registers() / 2, 1 % layout.threads())]
        {
            let mut at = layout.coordinate(register, thread);
            at.reverse();
            assert_eq!(turned.coordinate(register, thread), at);
        }
        assert_eq!(turned.transpose(&[1, 0]).unwrap(), layout);
    }
}

/// Carries a conversion out: whether each register of each thread then holds what it should.
fn check_conversion(from: &RegisterLayout, to: &RegisterLayout) -> Conversion {
    let found = conversion(from, to).unwrap();
    let threads = (0..to.threads()).flat_map(|thread| (0..to.registers()).map(move |register| (register, thread)));
    match &found {
        Conversion::None => assert_eq!(enumerate(from), enumerate(to)),
        Conversion::Registers(moves) => threads.for_each(|(register, thread)| {
            assert_eq!(
                from.coordinate(moves[register as usize], thread),
                to.coordinate(register, thread),
                "{from} -> {to}"
            );
        }),
        Conversion::Shuffle(shuffle) => threads.for_each(|(register, thread)| {
            let source = shuffle.source(register, thread);
            assert!(source.lane < 32 && source.register < from.registers(), "{from} -> {to}: {source:?}");
            let got = from.coordinate(source.register, thread / 32 * 32 + source.lane);
            assert_eq!(got, to.coordinate(register, thread), "{from} -> {to}: {register}, {thread}");
        }),
        Conversion::Shared => {}
    }
    found
}

/// Whether every element that a thread wants is in its own warp.
fn within_warps(from: &RegisterLayout, to: &RegisterLayout) -> bool {
    let held = enumerate(from);
    enumerate(to).iter().all(|(at, wanted)| {
        wanted.iter().all(|(_, thread)| held[at].iter().any(|(_, holder)| holder / 32 == thread / 32))
    })
}

#[test]
fn an_accumulator_is_the_left_operand_of_the_next_product() {
    let operand = parse(FRAGMENTS[10]);
    for n in (16..=256).step_by(16) {
        let accumulator = parse(FRAGMENTS[9]).tile(&[64, n], &[]).unwrap();
        assert_eq!(conversion(&accumulator, &operand.tile(&[64, n], &[]).unwrap()).unwrap(), Conversion::None, "{n}");
    }
    // Of mma.sync, with two tiles of m, fragments in another order.
    let accumulator = parse(FRAGMENTS[0]).tile(&[32, 48], &[]).unwrap();
    let operand = parse(FRAGMENTS[1]).tile(&[32, 48], &[]).unwrap();
    assert_eq!(accumulator, operand);
    let by_rows = parse("32x48{2:1@1 4:8@0 6:8@1 | 4:2@1 8:1@0}");
    let Conversion::Registers(moves) = check_conversion(&accumulator, &by_rows) else { panic!() };
    assert_eq!(moves[..8], [0, 1, 2, 3, 24, 25, 26, 27]);
    // 8-bit operands have four columns a lane where the accumulator has two.
    let eight_bits = parse(FRAGMENTS[4]).tile(&[16, 64], &[]).unwrap();
    let Conversion::Shuffle(shuffle) =
        check_conversion(&parse(FRAGMENTS[0]).tile(&[16, 64], &[]).unwrap(), &eight_bits)
    else {
        panic!()
    };
    assert_eq!(shuffle.shuffles(), 2 * 32);
    // Rows dealt to other warps.
    let [rows, columns] =
        [Deal::Along(0, 2), Deal::Along(1, 2)].map(|deal| parse(FRAGMENTS[0]).tile(&[32, 16], &[deal]).unwrap());
    assert_eq!(check_conversion(&rows, &columns), Conversion::Shared);
    assert!(matches!(conversion(&rows, &accumulator), Err(LayoutError::Shape { .. })));
    // Copies in every lane: each picks its own, nothing moves.
    let picked = check_conversion(&parse("4x8{4:1@0 8:1@1 | 32:0}"), &parse("4x8{ | 8:1@1 4:1@0}"));
    let Conversion::Shuffle(shuffle) = picked else { panic!("{picked:?}") };
    assert_eq!(shuffle.shuffles(), 0);
}

#[test]
fn conversions_of_every_pair_with_one_tile_are_right() {
    let all = layouts();
    let mut kinds = std::collections::HashSet::new();
    for from in &all {
        for to in all.iter().filter(|to| to.shape() == from.shape() && to.threads() == from.threads()) {
            let found = check_conversion(from, to);
            kinds.insert(std::mem::discriminant(&found));
            assert_eq!(found == Conversion::None, from == to);
        }
    }
    assert_eq!(kinds.len(), 4, "every kind occurs");
}

/// Digits: extent, axis (2 is none: copies), whether a thread's, and the place in the chain of strides.
fn arbitrary() -> impl Strategy<Value = RegisterLayout> {
    let digit = (1u32..6, 0usize..3, any::<bool>(), any::<u16>());
    proptest::collection::vec(digit, 0..7).prop_map(|digits| {
        let mut shape = [1, 1];
        let mut modes = vec![Mode::copies(1); digits.len()];
        let mut chain: Vec<usize> = (0..digits.len()).collect();
        chain.sort_by_key(|i| digits[*i].3);
        for i in chain {
            let (extent, axis, ..) = digits[i];
            modes[i] = if axis == 2 { Mode::copies(extent) } else { Mode::along(axis, extent, shape[axis]) };
            if axis < 2 {
                shape[axis] *= extent;
            }
        }
        let of = |threads| -> Vec<Mode> {
            modes.iter().zip(&digits).filter(|(_, digit)| digit.2 == threads).map(|(mode, _)| *mode).collect()
        };
        RegisterLayout::new(&shape, &of(false), &of(true)).unwrap()
    })
}

/// Two layouts of one tile of 2^a x 3 * 2^b, 64 threads, their bits dealt at random; some thread bits copies.
fn pair() -> impl Strategy<Value = (RegisterLayout, RegisterLayout)> {
    let bits = 8usize;
    let one = move || Just((0..bits).collect::<Vec<_>>()).prop_shuffle();
    let free = (proptest::collection::vec(any::<bool>(), bits), 0usize..3, 0usize..3);
    (one(), one(), one(), free).prop_map(move |(chain, first, second, (axes, copies, other_copies))| {
        let mut shape = [1, 1];
        let mut modes = vec![Mode::copies(1); bits];
        for &i in &chain {
            let axis = usize::from(axes[i]);
            modes[i] = Mode::along(axis, 2, shape[axis]);
            shape[axis] *= 2;
        }
        let three = Mode::along(1, 3, shape[1]);
        shape[1] *= 3;
        let layout = |order: &[usize], copies: usize| {
            let (threads, registers) = order.split_at(6 - copies);
            let of = |part: &[usize]| part.iter().map(|i| modes[*i]).collect::<Vec<_>>();
            let mut threads = of(threads);
            (0..copies).for_each(|i| threads.insert((2 * i).min(threads.len()), Mode::copies(2)));
            let registers: Vec<Mode> = of(registers).into_iter().chain([three]).collect();
            RegisterLayout::new(&shape, &registers, &threads).unwrap()
        };
        (layout(&first, copies), layout(&second, other_copies))
    })
}

proptest! {
    #[test]
    fn any_layout_is_exact_and_its_text_is_it(layout in arbitrary()) {
        check_exact(&layout);
    }

    #[test]
    fn merging_keeps_the_function(modes in proptest::collection::vec((1u32..5, any::<bool>()), 0..6)) {
        // Chains of digits along one axis, which all merge, with copies between.
        let mut stride = 1;
        let digits: Vec<Mode> = modes.iter().map(|(extent, along)| {
            let mode = if *along { Mode::along(0, *extent, stride) } else { Mode::copies(*extent) };
            stride *= if *along { *extent } else { 1 };
            mode
        }).collect();
        let layout = RegisterLayout::new(&[stride], &digits, &[]).unwrap();
        for register in 0..layout.registers() {
            let (mut rest, mut at) = (register, 0);
            for mode in &digits {
                at += rest % mode.extent * mode.stride;
                rest /= mode.extent;
            }
            prop_assert_eq!(layout.coordinate(register, 0), vec![at]);
        }
        let adjacent = |pair: &[Mode]| pair[0].axis == pair[1].axis && pair[0].stride * pair[0].extent == pair[1].stride;
        prop_assert!(!layout.register_modes().windows(2).any(adjacent));
    }

    #[test]
    fn equal_functions_are_equal_values(a in arbitrary(), b in arbitrary()) {
        let same = a.shape() == b.shape() && a.registers() == b.registers() && a.threads() == b.threads() && enumerate(&a) == enumerate(&b);
        prop_assert_eq!(a == b, same);
    }

    #[test]
    fn a_grid_of_tiles_divides_again(part in arbitrary(), grid in arbitrary()) {
        let whole = part.compose(&grid).unwrap();
        for register in 0..whole.registers() {
            for thread in 0..whole.threads().min(200) {
                let inside = part.coordinate(register % part.registers(), thread % part.threads());
                let place = grid.coordinate(register / part.registers(), thread / part.threads());
                let at: Vec<u32> = (0..2).map(|axis| inside[axis] + place[axis] * part.shape()[axis]).collect();
                prop_assert_eq!(whole.coordinate(register, thread), at);
            }
        }
        let again = whole.divide(&part).unwrap();
        prop_assert_eq!(part.compose(&again).unwrap(), whole);
        prop_assert_eq!(again, grid);
    }

    #[test]
    fn conversions_carry_every_value((from, to) in pair()) {
        let found = check_conversion(&from, &to);
        prop_assert_eq!(found != Conversion::Shared, within_warps(&from, &to), "{} -> {}: {:?}", from, to, found);
    }

    #[test]
    fn conversions_of_any_radix_are_right_or_shared(a in arbitrary(), b in arbitrary()) {
        if a.shape() == b.shape() {
            check_conversion(&a, &b);
        }
    }

    #[test]
    fn texts_never_panic(text in "[0-9]{0,10}x?[0-9]{0,3}\\{[0-9:@ ]{0,16}\\|[0-9:@ ]{0,16}\\}") {
        let _ = text.parse::<RegisterLayout>();
    }
}

#[test]
fn what_does_not_cover_exactly_is_refused() {
    for (text, message) in [
        ("16x8{2:1@1 2:4@0 | 4:2@1 8:1@0}", "axis 0"),
        ("16x8{2:1@1 | 4:2@1 8:1@0}", "after 8 elements"),
        ("16x8{2:1@1 2:8@0 2:1@1 | 4:2@1 8:1@0}", "axis 1"),
        ("8{2:1@1 | 8:1@0}", "axis 1"),
        ("8{ | 8:1@0", "expected a text"),
        ("8{ | 8:1}", "expected a text"),
        ("8{ | 0:0}", "product of extents"),
        ("4294967295{4294967295:1@0 | 4294967295:4294967295@0}", "product of extents"),
    ] {
        let error = text.parse::<RegisterLayout>().unwrap_err().to_string();
        assert!(error.contains(message), "{text}: {error}");
    }
}

/// Elements that are a multiple of what is left apart end in one, whose thread holds it as often as it held those.
#[test]
fn residues_are_where_their_elements_were() {
    for text in FRAGMENTS {
        let layout = parse(text);
        for axis in 0..2 {
            let extent = layout.shape()[axis];
            for left in (1..=extent).filter(|left| extent.is_multiple_of(*left)) {
                let Ok(rest) = layout.residues(axis, left) else { continue };
                check_exact(&rest);
                assert_eq!((rest.shape()[axis], rest.threads()), (left, layout.threads()), "{text}");
                for thread in 0..layout.threads() {
                    let of = |layout: &RegisterLayout, wrap: bool| -> BTreeSet<Vec<u32>> {
                        let at = (0..layout.registers()).map(|register| layout.coordinate(register, thread));
                        at.map(|mut at| {
                            at[axis] %= if wrap { left } else { u32::MAX };
                            at
                        })
                        .collect()
                    };
                    assert_eq!(of(&rest, false), of(&layout, true), "{text}, {left} left of axis {axis}");
                }
            }
            assert_eq!(layout.residues(axis, 1), layout.slice(axis));
        }
    }
    assert!(parse(FRAGMENTS[0]).residues(2, 1).is_err());
}
