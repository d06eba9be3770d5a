//! Images as the models see them: three channels, blue first, resized as bilinear as OpenCV does.

use kiln::graph::{Result, Tensor};

/// An image of `height * width` pixels in blue, green, red.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Row-major.
    pub pixels: Vec<[f32; 3]>,
}

impl Picture {
    /// From rows of red, green, blue and opacity; transparency is blended with white.
    pub fn from_rgba(width: usize, bytes: &[u8]) -> Picture {
        let blend = |c: u8, a: u8| (f32::from(c) * f32::from(a) + 255.0 * (255.0 - f32::from(a))) / 255.0;
        let pixels: Vec<[f32; 3]> =
            bytes.as_chunks::<4>().0.iter().map(|&[r, g, b, a]| [blend(b, a), blend(g, a), blend(r, a)]).collect();
        Picture { height: pixels.len() / width.max(1), width, pixels }
    }

    /// The pixel at a place, the edge repeated outside.
    fn at(&self, row: isize, column: isize) -> [f32; 3] {
        let row = row.clamp(0, self.height as isize - 1) as usize;
        let column = column.clamp(0, self.width as isize - 1) as usize;
        self.pixels[row * self.width + column]
    }

    /// The colour between pixels, whose centres are at whole coordinates.
    pub fn sample(&self, x: f32, y: f32) -> [f32; 3] {
        let (left, top) = (x.floor(), y.floor());
        let (fx, fy) = (x - left, y - top);
        let corner = |dx: isize, dy: isize| self.at(top as isize + dy, left as isize + dx);
        let (a, b, c, d) = (corner(0, 0), corner(1, 0), corner(0, 1), corner(1, 1));
        std::array::from_fn(|i| (a[i] * (1.0 - fx) + b[i] * fx) * (1.0 - fy) + (c[i] * (1.0 - fx) + d[i] * fx) * fy)
    }

    /// The image at another size.
    pub fn resized(&self, height: usize, width: usize) -> Picture {
        let (sy, sx) = (self.height as f32 / height as f32, self.width as f32 / width as f32);
        let mut pixels = Vec::with_capacity(height * width);
        for row in 0..height {
            for column in 0..width {
                let (x, y) = ((column as f32 + 0.5) * sx - 0.5, (row as f32 + 0.5) * sy - 0.5);
                pixels.push(self.sample(x, y).map(f32::round));
            }
        }
        Picture { height, width, pixels }
    }

    /// A quarter turn against the clock.
    pub fn turned(&self) -> Picture {
        let (height, width) = (self.width, self.height);
        let from = |row: usize, column: usize| self.pixels[column * self.width + (self.width - 1 - row)];
        let pixels = (0..height * width).map(|i| from(i / width, i % width)).collect();
        Picture { height, width, pixels }
    }

    /// `f32[1, 3, height, width]` in -1..=1; columns beyond the image are 0.
    pub fn tensor(&self, width: usize) -> Result<Tensor> {
        let mut data = vec![0f32; 3 * self.height * width];
        for (channel, plane) in data.chunks_mut(self.height * width).enumerate() {
            for (row, line) in plane.chunks_mut(width).enumerate() {
                for (out, pixel) in line.iter_mut().zip(&self.pixels[row * self.width..(row + 1) * self.width]) {
                    *out = pixel[channel] / 127.5 - 1.0;
                }
            }
        }
        Tensor::from_slice(&[1, 3, self.height, width], &data)
    }
}

#[cfg(test)]
mod tests {
    use super::Picture;

    fn ramp(height: usize, width: usize) -> Picture {
        let pixels = (0..height * width).map(|i| [(i % width * 10) as f32, (i / width * 20) as f32, 7.0]).collect();
        Picture { height, width, pixels }
    }

    #[test]
    fn pixels_are_blue_first_on_white() {
        let picture = Picture::from_rgba(2, &[255, 0, 10, 255, 9, 9, 9, 0]);
        assert_eq!(picture, Picture { height: 1, width: 2, pixels: vec![[10.0, 0.0, 255.0], [255.0; 3]] });
    }

    #[test]
    fn resizing_keeps_what_it_can() {
        let picture = ramp(3, 5);
        assert_eq!(picture.resized(3, 5), picture);
        let larger = picture.resized(6, 10);
        assert_eq!((larger.height, larger.width), (6, 10));
        // Halfway between centres is a quarter of a step from either side; the edge repeats.
        assert_eq!(larger.pixels[0], [0.0, 0.0, 7.0]);
        assert_eq!(larger.pixels[10 + 1], [3.0, 5.0, 7.0]);
        assert_eq!(larger.pixels[59], [40.0, 40.0, 7.0]);
    }

    #[test]
    fn four_turns_are_none() {
        let picture = ramp(2, 3);
        let turned = picture.turned();
        assert_eq!((turned.height, turned.width), (3, 2));
        assert_eq!(turned.pixels[0], picture.pixels[2]);
        assert_eq!(turned.turned().turned().turned(), picture);
    }

    #[test]
    fn tensors_are_planes_padded_with_zero() {
        let tensor = ramp(2, 2).tensor(3).unwrap();
        assert_eq!(tensor.shape(), [1, 3, 2, 3]);
        let data = tensor.to_vec::<f32>().unwrap();
        assert_eq!(data[..3], [-1.0, 10.0 / 127.5 - 1.0, 0.0]);
        assert_eq!(data[9], 20.0 / 127.5 - 1.0);
    }
}
