use super::*;
use crate::model;
use crate::tests::ranks::with_meshes;
use crate::tests::spec;

/// Where the bytes lie, and what they are.
fn look(copy: &StateCopy) -> Vec<(*const u8, Vec<f32>)> {
    let number = |bytes: &[u8; 4]| f32::from_ne_bytes(*bytes);
    let values = |bytes: &[u8]| bytes.as_chunks().0.iter().map(number).collect();
    copy.as_bytes().into_iter().map(|(_, bytes)| (bytes.as_ptr(), values(bytes))).collect()
}

fn expected(zero: &Zero) -> Vec<Vec<f32>> {
    let read = |(kind, slice)| zero.read(kind, &slice, <[f32]>::to_vec).unwrap();
    owned(zero).map(read).collect()
}

/// Every element becomes another one.
fn change(zero: &mut Zero, by: f32) {
    for (index, kind) in zero.kinds().into_iter().enumerate() {
        for slice in zero.held(kind) {
            let value = |at: usize| by + index as f32 * 0.1 + (slice.offset + at) as f32 * 1e-3;
            let values: Vec<f32> = (0..slice.len).map(value).collect();
            zero.write(kind, &slice, &values).unwrap();
        }
    }
}

#[test]
fn a_copy_stays_where_it_is_and_holds_the_newest_state() {
    for stage in [0, 2, 3] {
        with_meshes(2, |mesh| {
            let job = spec::job().stage(stage);
            let spec = job.with(|spec| spec.zero.stage3.param_persistence_threshold = 0).build();
            let mut model = model::build(&spec.model, 2, 1, 3).unwrap();
            let mut zero = Zero::new(&mut model, &spec, mesh.communicator(0).unwrap()).unwrap();
            let mut copy = StateCopy::plan(&zero);
            copy.make_room();
            let places: Vec<*const u8> =
                copy.slices.iter().map(|(_, room)| room.as_ptr()).collect();
            for number in [1.0, 2.0, 3.0] {
                change(&mut zero, number);
                copy.fill(&mut zero, None).unwrap();
                copy.complete();
                let (at, values): (Vec<_>, Vec<_>) = look(&copy).into_iter().unzip();
                assert_eq!((at, values), (places.clone(), expected(&zero)), "stage {stage}");
            }
            let best = zero.snapshot().unwrap();
            let weights = zero.owned().len();
            copy.fill(&mut zero, Some(&best)).unwrap();
            copy.complete();
            let with_best = look(&copy);
            assert_eq!(with_best.len(), places.len() + weights);
            assert!(with_best.iter().zip(&places).all(|((at, _), place)| at == place));
            copy.fill(&mut zero, None).unwrap();
            copy.complete();
            assert_eq!(look(&copy), with_best[..places.len()]);
        });
    }
}

#[test]
fn what_changes_after_the_boundary_does_not_reach_a_copy_that_is_completed_later() {
    for stage in [0, 2, 3] {
        with_meshes(2, |mesh| {
            let spec = spec::job().stage(stage).build();
            let mut model = model::build(&spec.model, 2, 1, 3).unwrap();
            let mut zero = Zero::new(&mut model, &spec, mesh.communicator(0).unwrap()).unwrap();
            let mut copy = StateCopy::plan(&zero);
            change(&mut zero, 1.0);
            let before = expected(&zero);
            copy.fill(&mut zero, None).unwrap();
            assert!(!copy.borrowed.as_ref().unwrap().places.is_empty(), "Adam has states");
            let desk = copy.desk.clone().unwrap();
            let saving = std::thread::spawn(move || {
                while !desk.is_waited_for() {
                    std::thread::yield_now();
                }
                copy.complete();
                copy
            });
            zero.recall(std::time::Duration::from_secs(30)).unwrap();
            change(&mut zero, 2.0);
            let copy = saving.join().unwrap();
            let (_, values): (Vec<_>, Vec<_>) = look(&copy).into_iter().unzip();
            assert_eq!(values, before, "stage {stage}");
            assert_ne!(expected(&zero), before);
            assert!(!copy.waited().is_zero(), "the change waited");
        });
    }
}
