//! From a box to text: the crop that the recognizer reads, and its answer decoded.

use super::boxes::Rect;
use super::picture::Picture;

/// Height of the recognizer's input.
pub const HEIGHT: usize = 48;
/// Least width of the recognizer's input; shorter lines are padded.
pub const WIDTH: usize = 320;

/// The image inside a box, upright; tall boxes are taken for vertical text and turned.
pub fn crop(picture: &Picture, rect: &Rect) -> Picture {
    let [width, height] = rect.sides.map(|s| (s as usize).max(1));
    let [origin, right, _, down] = rect.corners();
    let along = |a: [f32; 2], n: usize| [(a[0] - origin[0]) / n as f32, (a[1] - origin[1]) / n as f32];
    let (dx, dy) = (along(right, width), along(down, height));
    let place = |row: usize, column: usize| {
        let (u, v) = (column as f32, row as f32);
        [origin[0] + dx[0] * u + dy[0] * v, origin[1] + dx[1] * u + dy[1] * v]
    };
    let pixels = (0..height * width).map(|i| place(i / width, i % width)).map(|[x, y]| picture.sample(x, y)).collect();
    let cropped = Picture { height, width, pixels };
    if height as f32 >= 1.5 * width as f32 { cropped.turned() } else { cropped }
}

/// A crop at the recognizer's height, its proportions kept.
pub fn fitted(crop: &Picture) -> Picture {
    let width = (HEIGHT as f32 * crop.width as f32 / crop.height as f32).ceil() as usize;
    crop.resized(HEIGHT, width.max(1))
}

/// The characters that the recognizer's classes stand for: a blank, those of the model's dictionary, a space.
pub fn alphabet(dictionary: &str) -> Vec<&str> {
    std::iter::once("").chain(dictionary.lines()).chain([" "]).collect()
}

/// CTC: the best class of each step, repeats merged, blanks dropped. Gives the text and its mean probability.
pub fn decode(scores: &[f32], alphabet: &[&str]) -> (String, f32) {
    let (mut text, mut total, mut count) = (String::new(), 0.0, 0u32);
    let mut previous = 0;
    for step in scores.chunks_exact(alphabet.len()) {
        let best = step.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        let (class, &p) = best.unwrap_or((0, &0.0));
        if class != 0 && class != previous {
            text.push_str(alphabet[class]);
            total += p;
            count += 1;
        }
        previous = class;
    }
    (text, if count == 0 { 0.0 } else { total / count as f32 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_merge_and_blanks_separate() {
        let alphabet = alphabet("a\nb");
        assert_eq!(alphabet, ["", "a", "b", " "]);
        let step = |class: usize, p: f32| {
            let mut scores = [0.01; 4];
            scores[class] = p;
            scores
        };
        let steps = [step(0, 0.9), step(1, 0.8), step(1, 0.9), step(0, 0.9), step(1, 0.6), step(3, 0.7), step(2, 0.9)];
        let (text, score) = decode(&steps.concat(), &alphabet);
        assert_eq!(text, "aa b");
        assert!((score - 0.75).abs() < 1e-6, "{score}");
        assert_eq!(decode(&step(0, 0.9), &alphabet), (String::new(), 0.0));
    }

    #[test]
    fn a_crop_is_upright() {
        let pixels = (0..20 * 30).map(|i| [(i % 30) as f32, (i / 30) as f32, 0.0]).collect();
        let picture = Picture { height: 20, width: 30, pixels };
        let rect = Rect { centre: [15.0, 10.0], axis: [1.0, 0.0], sides: [10.0, 8.0] };
        let cropped = crop(&picture, &rect);
        assert_eq!((cropped.height, cropped.width), (8, 10));
        assert_eq!((cropped.pixels[0], cropped.pixels[79]), ([10.0, 6.0, 0.0], [19.0, 13.0, 0.0]));
        assert_eq!((fitted(&cropped).height, fitted(&cropped).width), (48, 60));
        let tall = crop(&picture, &Rect { sides: [5.0, 10.0], ..rect });
        assert_eq!((tall.height, tall.width), (5, 10));
    }
}
