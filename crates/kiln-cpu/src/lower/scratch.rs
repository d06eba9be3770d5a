//! Places scratch slots and the stages' private scratch in one buffer, reusing memory by lifetime.

use super::{Home, Lowered, SlotSpec};
use crate::stage::Stage;

const ALIGN: usize = 64;

struct Span {
    first: usize,
    last: usize,
    bytes: usize,
}

/// Gives every scratch slot and stage an offset. Largest first, each at the lowest offset free over its lifetime.
/// The first `once` stages run at another time than the rest: what they leave lies in [`Home::Kept`].
pub(super) fn place(mut slots: Vec<SlotSpec>, stages: Vec<Stage>, once: usize) -> Lowered {
    let mut spans: Vec<Option<Span>> = slots
        .iter()
        .map(|s| {
            matches!(s.home, Home::Scratch(_)).then(|| Span {
                first: usize::MAX,
                last: 0,
                bytes: s.bytes().next_multiple_of(ALIGN),
            })
        })
        .collect();
    for (at, stage) in stages.iter().enumerate() {
        stage.each_slot(&mut |slot| {
            if let Some(span) = &mut spans[slot] {
                span.first = span.first.min(at);
                span.last = span.last.max(at);
            }
        });
    }
    let private = stages.iter().enumerate().map(|(at, stage)| {
        let bytes = stage.scratch_bytes().next_multiple_of(ALIGN);
        Some(Span { first: at, last: at, bytes })
    });
    let spans: Vec<Option<Span>> = spans.into_iter().chain(private).collect();

    let mut order: Vec<usize> = (0..spans.len()).filter(|&i| spans[i].is_some()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(spans[i].as_ref().map_or(0, |s| s.bytes)), i));
    let mut placed: Vec<(usize, usize)> = Vec::new();
    let mut offsets = vec![0; spans.len()];
    let mut total = 0;
    for i in order {
        let Some(span) = &spans[i] else { continue };
        let mut busy: Vec<(usize, usize)> = placed
            .iter()
            .filter_map(|&(j, offset)| {
                let other = spans[j].as_ref()?;
                (other.first <= span.last && span.first <= other.last).then_some((offset, offset + other.bytes))
            })
            .collect();
        busy.sort_unstable();
        let mut offset = 0;
        for (start, end) in busy {
            if offset + span.bytes <= start {
                break;
            }
            offset = offset.max(end);
        }
        offsets[i] = offset;
        total = total.max(offset + span.bytes);
        placed.push((i, offset));
    }
    for (slot, &offset) in slots.iter_mut().zip(&offsets) {
        if let Home::Scratch(at) = &mut slot.home {
            *at = offset;
        }
    }
    let mut kept_bytes = 0;
    for slot in &mut slots {
        let bytes = slot.bytes().next_multiple_of(ALIGN);
        if let Home::Kept(at) = &mut slot.home {
            *at = kept_bytes;
            kept_bytes += bytes;
        }
    }
    let own = |(&at, stage): (&usize, &Stage)| at..at + stage.scratch_bytes();
    let stage_scratch = offsets[slots.len()..].iter().zip(&stages).map(own).collect();
    let packed = |s: &SlotSpec| matches!(s.home, Home::Output(_)) && s.dtype.bits() == 4 && s.len > 0;
    let nibbles = (0..slots.len()).filter(|&i| packed(&slots[i])).collect();
    Lowered { slots, stages, once, stage_scratch, scratch_bytes: total, kept_bytes, nibbles }
}
