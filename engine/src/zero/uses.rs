//! Which unit uses which parameter.

use tch::Tensor;

use crate::model::Model;
use crate::zero::layout::Layout;
use crate::zero::reducer::Arrivals;

/// The parameters of each unit by their index in the model; two units may share one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Uses {
    units: Vec<Vec<usize>>,
    trained: Vec<bool>,
}

impl Uses {
    /// Before the parameters move: tied ones are told by their memory.
    pub(crate) fn of(model: &Model, trained: &[bool]) -> Self {
        let same = |a: &Tensor, b: &Tensor| a.data_ptr() == b.data_ptr() && a.numel() == b.numel();
        let index = |leaf: &Tensor| {
            let found = model.parameters().iter().position(|p| same(&p.tensor, leaf));
            found.expect("the model lists the leaves of its units")
        };
        let units = model.units().iter();
        let units = units.map(|unit| unit.parameters().iter().map(|p| index(&p.tensor)).collect());
        Self { units: units.collect(), trained: trained.to_vec() }
    }

    /// Backward ends with this unit.
    pub(crate) fn first_trained(&self) -> usize {
        let trains = |unit: &Vec<usize>| unit.iter().any(|&parameter| self.trained[parameter]);
        self.units.iter().position(trains).unwrap_or(self.units.len())
    }

    /// The sharded buckets that each unit needs.
    pub(crate) fn sharded_buckets(&self, layout: &Layout) -> Vec<Vec<usize>> {
        let places = layout.places();
        let buckets = |unit: &Vec<usize>| {
            let all = unit.iter().map(|&parameter| places[parameter].0);
            let mut sharded: Vec<usize> =
                all.filter(|&bucket| layout.buckets[bucket].is_sharded).collect();
            sharded.sort_unstable();
            sharded.dedup();
            sharded
        };
        self.units.iter().map(buckets).collect()
    }

    /// When and how often gradients come. Units that are recomputed have a backward each.
    pub(crate) fn arrivals(&self, recomputes: bool) -> Arrivals {
        let users = |parameter: usize| {
            let uses = self.units.iter().enumerate();
            uses.filter(move |(_, unit)| unit.contains(&parameter)).map(|(index, _)| index)
        };
        let times = |parameter: usize| match (self.trained[parameter], recomputes) {
            (false, _) => 0,
            (true, false) => 1,
            (true, true) => users(parameter).count() as u32,
        };
        let parameters = 0..self.trained.len();
        Arrivals {
            units: parameters.clone().map(|p| users(p).next().unwrap_or(0)).collect(),
            times: parameters.map(times).collect(),
        }
    }
}
