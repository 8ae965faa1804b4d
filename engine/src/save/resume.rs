//! stub
use super::*;
use collectives::Communicator;
pub(crate) struct Resumed { pub(crate) state: State, pub(crate) best_weights: Option<Vec<Vec<f32>>>, pub(crate) notes: Vec<String>, pub(crate) is_from_root: bool }
pub(crate) fn resume(_r: &Root, _h: &common::spec::Resume, _z: &mut Zero, _c: &mut Communicator) -> Result<Resumed, Error> { Ok(Resumed { state: State::default(), best_weights: None, notes: vec![], is_from_root: false }) }
