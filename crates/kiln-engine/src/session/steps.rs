//! Running the steps of a schedule one by one: what a device cannot record, and runs that are observed.

use super::stream::Streams;
use super::{Observation, Observer, internal};
use crate::device::{Device, MemId, Place};
use crate::schedule::{Action, Schedule};
use crate::{Error, Result};
use bytes::Bytes;
use kiln_fuse::{BufferId, Plan, Step};
use kiln_graph::{DType, Tensor};
use std::time::Instant;

/// What lies at a place.
pub fn fetch(device: &mut dyn Device, dtype: DType, place: Place, shape: Vec<usize>) -> Result<Tensor> {
    let mut data = kiln_host::reserve(place.bytes)
        .map_err(|_| Error::OutOfMemory { device: "the host".into(), bytes: place.bytes })?;
    data.resize(place.bytes, 0);
    device.download(place, &mut data)?;
    Ok(Tensor::new(dtype, shape, Bytes::from(data))?)
}

fn buffer(device: &mut dyn Device, plan: &Plan, schedule: &Schedule, id: BufferId) -> Result<Tensor> {
    let shape = schedule.shapes[id.index()].clone();
    fetch(device, plan.buffers[id.index()].ty.dtype, schedule.places[id.index()], shape)
}

fn scalar(device: &mut dyn Device, place: Place) -> Result<i64> {
    let mut data = vec![0; place.bytes];
    device.download(place, &mut data)?;
    match <[u8; 8]>::try_from(data.as_slice()) {
        Ok(bytes) => Ok(i64::from_le_bytes(bytes)),
        Err(_) => Ok(i64::from(data.first().is_some_and(|&b| b != 0))),
    }
}

/// Runs a schedule, which an error keeps from running where its shapes do not agree. Weights that do not stay are copied to a block ahead of their step.
pub fn run_schedule(
    device: &mut dyn Device,
    plan: &Plan,
    schedule: &Schedule,
    streamed: Option<(&Streams, MemId)>,
    mut observer: Option<Observer<'_>>,
) -> Result<()> {
    schedule.check()?;
    for (index, (action, step)) in schedule.actions.iter().zip(&plan.steps).enumerate() {
        let start = Instant::now();
        if let Some((streams, block)) = streamed {
            streams.fetch(index, block, device)?;
        }
        match (action, step) {
            (Action::Launch { .. }, _) => {
                if let Some((prepared, arguments)) = action.launch() {
                    device.launch(prepared, arguments)?;
                }
            }
            (Action::If { cond, branches, results, outputs }, Step::If { then_plan, else_plan, .. }) => {
                let taken = usize::from(scalar(device, *cond)? == 0);
                run_schedule(device, [then_plan, else_plan][taken], &branches[taken], None, None)?;
                for (from, to) in results[taken].iter().zip(outputs) {
                    device.copy(*to, *from)?;
                }
            }
            (Action::Loop { .. }, Step::Loop { body, .. }) => run_loop(device, body, action)?,
            _ => return Err(internal("the schedule does not match its plan")),
        }
        if let Some(observer) = &mut observer {
            device.synchronize()?;
            let time = start.elapsed();
            let results = step
                .results()
                .iter()
                .map(|&id| Ok((id, buffer(device, plan, schedule, id)?)))
                .collect::<Result<Vec<_>>>()?;
            observer(Observation { index, step, time, results });
        }
    }
    Ok(())
}

fn run_loop(device: &mut dyn Device, plan: &Plan, action: &Action) -> Result<()> {
    let Action::Loop { trip, body, index, start, state, next, scans, outputs } = action else {
        return Err(internal("not a loop"));
    };
    let all = |device: &mut dyn Device, from: &[Place], to: &[Place]| {
        from.iter().zip(to).try_for_each(|(from, to)| device.copy(*to, *from))
    };
    all(device, start, state)?;
    let trips = scalar(device, *trip)?;
    let mut i = 0;
    while i < trips && scalar(device, state[0])? != 0 {
        body.check()?;
        device.upload(*index, &i.to_le_bytes())?;
        run_schedule(device, plan, body, None, None)?;
        for (scan, to) in scans {
            let offset = to.offset + i as usize * scan.bytes;
            device.copy(Place { offset, bytes: scan.bytes, ..*to }, *scan)?;
        }
        all(device, next, state)?;
        i += 1;
    }
    if !scans.is_empty() && i != trips {
        return Err(Error::Unsupported {
            device: device.name(),
            what: format!("a loop with scan outputs that stops after {i} of {trips} iterations"),
        });
    }
    all(device, &state[1..], outputs)
}
