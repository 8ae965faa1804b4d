//! Images with their classes, kept once; batches are gathered.

use std::sync::Arc;

use tch::Tensor;

use super::Error;
use super::samples::{buffer, tensor};
use crate::model::Image;

/// All images of a file, kept once for all parts.
#[derive(Debug)]
pub(super) struct Images {
    pub(super) shape: Image,
    /// As the model sees them: image by image, channels x height x width.
    pub(super) pixels: Vec<f32>,
    /// By image, from 0.
    pub(super) classes: Vec<i64>,
}

/// One part of a set of images.
#[derive(Debug, Clone)]
pub struct ImageSamples {
    images: Arc<Images>,
    /// Sample i is the image with this number.
    members: Arc<[u32]>,
}

impl Images {
    fn pixels_of(&self, image: u32) -> &[f32] {
        let Image { channels, height, width } = self.shape;
        let each = channels * height * width;
        &self.pixels[image as usize * each..][..each]
    }
}

impl ImageSamples {
    /// None without members.
    pub(super) fn of(images: &Arc<Images>, members: Vec<u32>) -> Option<Self> {
        let images = Arc::clone(images);
        (!members.is_empty()).then(|| Self { images, members: members.into() })
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn batch(&self, indices: &[u32]) -> Result<(Tensor, Tensor), Error> {
        let Image { channels, height, width } = self.images.shape;
        let mut pixels = buffer(indices.len(), channels * height * width)?;
        let mut classes = buffer(indices.len(), 1)?;
        for &index in indices {
            let len = self.members.len();
            let image =
                *self.members.get(index as usize).ok_or(Error::NoSuchSample { index, len })?;
            pixels.extend_from_slice(self.images.pixels_of(image));
            classes.push(self.images.classes[image as usize]);
        }
        let batch = indices.len() as i64;
        let x_bchw = tensor(&pixels, &[batch, channels as i64, height as i64, width as i64])?;
        Ok((x_bchw, tensor(&classes, &[batch])?))
    }

    pub(super) fn hash(&self, hasher: &mut blake3::Hasher) {
        for &image in &*self.members {
            hasher.update(bytemuck::cast_slice(self.images.pixels_of(image)));
            hasher.update(&self.images.classes[image as usize].to_le_bytes());
        }
    }
}
