//! A set of images whose size is known to the device alone, and tensors made of its members.

use super::prelude::*;
use kernels::subset;
use std::rc::Rc;

/// The set S of some of B images. All of it lies in device memory; a clone shares it.
#[derive(Clone)]
pub struct Subset {
    /// |S|: `[1]`.
    pub count: Rc<Buffer<i32>>,
    /// The members, ascending, and -1 past them: `[B]`.
    pub index: Rc<Buffer<i32>>,
    /// The place of each image in `index`, or -1: `[B]`.
    pub position: Rc<Buffer<i32>>,
}

impl Subset {
    /// B: how many images there were to choose from.
    pub fn images(&self) -> usize {
        self.index.len()
    }
}

/// A part of a tensor or buffer: its rows from `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowsFrom<T> {
    pub of: T,
    pub first: usize,
}

impl<T> RowsFrom<T> {
    pub fn new(of: T, first: usize) -> RowsFrom<T> {
        RowsFrom { of, first }
    }

    /// All rows.
    pub fn all(of: T) -> RowsFrom<T> {
        RowsFrom { of, first: 0 }
    }
}

/// The images i < `images` whose flag in `required`, and in `also` if given, is not 0.
pub fn subset(
    device: &Device,
    required: RowsFrom<&Buffer<u8>>,
    also: Option<RowsFrom<&Buffer<u8>>>,
    images: usize,
) -> Result<Subset> {
    for flags in [required].into_iter().chain(also) {
        if flags.of.len() < flags.first + images {
            return Err(Error::Shape {
                op: "subset",
                expected: format!("{} + {images} flags", flags.first),
                got: vec![flags.of.len()],
            });
        }
    }
    let mut count = Buffer::uninit(device, 1)?;
    let (mut index, mut position) = (Buffer::uninit(device, images)?, Buffer::uninit(device, images)?);
    let (second, second_offset) = also.map_or((None, 0), |also| (Some(also.of), also.first));
    subset::members(
        device,
        1,
        required.of,
        required.first,
        second,
        second_offset,
        &mut count,
        &mut index,
        &mut position,
        images,
    )?;
    Ok(Subset { count: Rc::new(count), index: Rc::new(index), position: Rc::new(position) })
}

/// `[B,...]`: with r `[1]` row j is r a\[S_j] + (1 - r) b\[S_j] for the members of S, and zero past them. Not
/// differentiated.
pub fn mix(
    device: &Device,
    a: RowsFrom<&Tensor>,
    b: RowsFrom<&Tensor>,
    subset: &Subset,
    r: &Tensor,
) -> Result<Tensor> {
    let images = subset.images();
    let size = row_size("mix", a, images, None)?;
    row_size("mix", b, images, Some(size))?;
    let n = images * size;
    let mut out = Tensor::uninit(device, &[&[images], &a.of.shape()[1..]].concat())?;
    if n > 0 {
        subset::Mix {
            a: a.of,
            a_offset: a.first,
            b: b.of,
            b_offset: b.first,
            count: &subset.count,
            index: &subset.index,
            out: &mut out,
            mix: r,
            n,
            size,
        }
        .launch(device, elementwise(device, n))?;
    }
    Ok(out)
}

/// Elements of a row of a tensor that has `images` rows from `rows.first` on; an error that names `op` when
/// it has not, or has rows of another size than `wanted`.
pub(super) fn row_size(
    op: &'static str,
    rows: RowsFrom<&Tensor>,
    images: usize,
    wanted: Option<usize>,
) -> Result<usize> {
    let RowsFrom { of: tensor, first } = rows;
    let size = tensor.shape().iter().skip(1).product();
    let count = tensor.shape().first().copied().unwrap_or(0);
    if count < first + images || wanted.is_some_and(|wanted| wanted != size) {
        let expected = format!("{first} + {images} rows of {} elements", wanted.unwrap_or(size));
        return Err(Error::Shape { op, expected, got: tensor.shape().to_vec() });
    }
    Ok(size)
}

/// A number in device memory, for tests.
#[cfg(test)]
pub(super) fn number(device: &Device, value: f32) -> Result<Tensor> {
    Tensor::from_slice(device, &[1], &[value])
}

/// The set with these members, for tests.
#[cfg(test)]
pub(super) fn of(device: &Device, members: &[usize], images: usize) -> Result<Subset> {
    let flags: Vec<u8> = (0..images).map(|i| members.contains(&i) as u8).collect();
    subset(device, RowsFrom::all(&Buffer::from_slice(device, &flags)?), None, images)
}

#[cfg(test)]
pub fn cases() -> Vec<super::testing::Case> {
    use super::testing::*;
    let floats = |set: Subset| -> Result<Vec<f32>> {
        let all = [set.count.to_vec()?, set.index.to_vec()?, set.position.to_vec()?].concat();
        Ok(all.into_iter().map(|v| v as f32).collect())
    };
    // B, what remains of i in the flags (a flag is set where it is below the limit), offsets, whether there
    // are second flags.
    let settings = [
        (1, 0, 0, [0, 0], false),
        (1, 1, 1, [0, 0], false),
        (7, 3, 1, [0, 7], true),
        (255, 5, 3, [2, 300], true),
        (256, 2, 1, [1, 0], false),
        (257, 7, 7, [0, 1], true),
        (1000, 1, 0, [0, 0], true),
        (1500, 3, 2, [5, 0], false),
        (20_011, 3, 2, [5, 20_016], true),
    ];
    let mut cases = Vec::new();
    for (images, modulus, limit, offsets, both) in settings {
        let [first, second] = [7, 11].map(|step| move |i: usize| modulus > 0 && i * step % modulus < limit);
        let run = move |device: &Device, _: &[Tensor]| {
            let len = offsets[0].max(offsets[1]) + images;
            // A set flag is any number but 0.
            let flags = |set: &dyn Fn(usize) -> bool| {
                Buffer::from_slice(
                    device,
                    &(0..len).map(|i| if set(i) { 1 + i as u8 % 255 } else { 0 }).collect::<Vec<u8>>(),
                )
            };
            let (first, second) = (flags(&first)?, flags(&second)?);
            floats(subset(
                device,
                RowsFrom::new(&first, offsets[0]),
                both.then_some(RowsFrom::new(&second, offsets[1])),
                images,
            )?)
        };
        let want = move |_: &[Vec<f64>]| {
            let member = |i: &usize| first(i + offsets[0]) && (!both || second(i + offsets[1]));
            let members: Vec<usize> = (0..images).filter(member).collect();
            let place = |i: usize| members.binary_search(&i).map_or(-1.0, |j| j as f64);
            let index = (0..images).map(|j| members.get(j).map_or(-1.0, |i| *i as f64));
            [members.len() as f64].into_iter().chain(index).chain((0..images).map(place)).collect()
        };
        let name = format!("{images} images, {limit} of {modulus}, offsets {offsets:?}, second {both}");
        cases.push(Case::kernel(name, [Input::filled(&[1], 0.0)], run, want));
    }
    let by_hand = move |device: &Device, _: &[Tensor]| {
        let flags = Buffer::from_slice(device, &[9, 0, 1, 1, 0, 1, /* the second view: */ 1, 1, 0, 3, 0, 1])?;
        floats(subset(device, RowsFrom::all(&flags), Some(RowsFrom::new(&flags, 6)), 6)?)
    };
    cases.push(Case::kernel("by hand", [Input::filled(&[1], 0.0)], by_hand, |_| {
        [vec![3.0], vec![0., 3., 5., -1., -1., -1.], vec![0., -1., -1., 1., -1., 2.]].concat()
    }));

    let sets: [&'static [usize]; 4] = [&[], &[2], &[0, 3, 4], &[0, 1, 2, 3, 4]];
    for (members, row) in sets.into_iter().flat_map(|m| {
        [vec![1], vec![3], vec![7], vec![11], vec![4, 3], vec![3, 4, 2], vec![33, 31, 3]].map(|r| (m, r))
    }) {
        let (size, shape) = (row.iter().product::<usize>(), |n: usize| [vec![n], row.clone()].concat());
        // Rows that are no member's hold NaN.
        let poisoned = |rows: usize, offset: usize, seed: u64| {
            let mut input = Input::normal_seeded(&shape(rows), seed);
            let unused = |at: usize| !members.iter().any(|m| m + offset == at / size);
            input
                .values
                .iter_mut()
                .enumerate()
                .filter(|(at, _)| unused(*at))
                .for_each(|(_, v)| *v = f32::NAN);
            input
        };
        let run = move |device: &Device, x: &[Tensor]| {
            mix(
                device,
                RowsFrom::all(&x[0]),
                RowsFrom::new(&x[1], 4),
                &of(device, members, 5)?,
                &number(device, 0.7)?,
            )?
            .to_vec()
        };
        let want = move |x: &[Vec<f64>]| {
            let value = |at: usize| {
                let member =
                    |m: &usize| 0.7 * x[0][m * size + at % size] + 0.3 * x[1][(m + 4) * size + at % size];
                members.get(at / size).map_or(0.0, member)
            };
            (0..5 * size).map(value).collect()
        };
        cases.push(Case::kernel(
            format!("mix {members:?} of rows {row:?}"),
            [poisoned(5, 0, 1), poisoned(9, 4, 2)],
            run,
            want,
        ));
    }
    cases.push(Case::kernel(
        "mix of two views in one tensor",
        [Input::normal(&[6, 5, 3])],
        |device, x| {
            mix(
                device,
                RowsFrom::all(&x[0]),
                RowsFrom::new(&x[0], 3),
                &of(device, &[1, 2], 3)?,
                &number(device, 0.75)?,
            )?
            .to_vec()
        },
        |x| (0..45).map(|i| if i < 30 { 0.75 * x[0][i + 15] + 0.25 * x[0][i + 60] } else { 0.0 }).collect(),
    ));
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_flags_and_rows_are_errors() {
        let device = Device::host().unwrap();
        let flags = Buffer::from_slice(&device, &[1u8; 6]).unwrap();
        assert!(subset(&device, RowsFrom::new(&flags, 3), None, 4).is_err());
        assert!(subset(&device, RowsFrom::all(&flags), Some(RowsFrom::new(&flags, 5)), 4).is_err());
        let set = subset(&device, RowsFrom::all(&flags), Some(RowsFrom::new(&flags, 3)), 3).unwrap();
        let x = Tensor::zeros(&device, &[6, 2]).unwrap();
        let r = &number(&device, 0.5).unwrap();
        assert!(mix(&device, RowsFrom::all(&x), RowsFrom::new(&x, 3), &set, r).is_ok());
        assert!(mix(&device, RowsFrom::all(&x), RowsFrom::new(&x, 4), &set, r).is_err());
        assert!(
            mix(
                &device,
                RowsFrom::all(&x),
                RowsFrom::all(&Tensor::zeros(&device, &[6, 3]).unwrap()),
                &set,
                r
            )
            .is_err()
        );
    }
}
