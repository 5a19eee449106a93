//! `numeric`: arbitrary precision decimals with Postgres's scale rules. (Bootstrap signatures.)

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::error::ValueError;

/// A decimal number of any size with its display scale, or NaN, or an infinity.
/// Equality, order and hash are by value (1.0 = 1.00; NaN equals NaN and is above everything).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Numeric(Box<[u8]>);

impl Numeric {
    pub fn parse(_text: &str) -> Result<Numeric, ValueError> { todo!() }
    pub fn from_i64(_value: i64) -> Numeric { todo!() }
    pub fn from_i128(_value: i128, _scale: u16) -> Numeric { todo!() }
    /// 15 significant digits for float8 (6 for float4), as Postgres's cast.
    pub fn from_f64(_value: f64) -> Numeric { todo!() }
    pub fn from_f32(_value: f32) -> Numeric { todo!() }
    pub fn to_f64(&self) -> f64 { todo!() }
    /// Rounded half away from zero; 22003 when it does not fit.
    pub fn to_i64(&self) -> Result<i64, ValueError> { todo!() }
    pub fn scale(&self) -> u16 { todo!() }
    pub fn add(&self, _other: &Numeric) -> Result<Numeric, ValueError> { todo!() }
    pub fn sub(&self, _other: &Numeric) -> Result<Numeric, ValueError> { todo!() }
    pub fn mul(&self, _other: &Numeric) -> Result<Numeric, ValueError> { todo!() }
    pub fn div(&self, _other: &Numeric) -> Result<Numeric, ValueError> { todo!() }
    pub fn rem(&self, _other: &Numeric) -> Result<Numeric, ValueError> { todo!() }
    pub fn neg(&self) -> Numeric { todo!() }
    pub fn abs(&self) -> Numeric { todo!() }
    /// Rounds half away from zero to `scale` digits behind the point (negative: before it).
    pub fn round(&self, _scale: i32) -> Numeric { todo!() }
    pub fn trunc(&self, _scale: i32) -> Numeric { todo!() }
    /// Rounds to numeric(p, s); 22003 "numeric field overflow" with Postgres's DETAIL.
    pub fn with_limits(&self, _precision: u16, _scale: u16) -> Result<Numeric, ValueError> { todo!() }
    /// Order-preserving bytes followed by the display scale (u16, big-endian): what Arrow columns and rows hold.
    /// Of two values, bytes order as the values do, and ties by scale.
    pub fn to_sortable(&self) -> Vec<u8> { todo!() }
    pub fn from_sortable(_bytes: &[u8]) -> Result<Numeric, ValueError> { todo!() }
    /// The same value with the least scale that shows it exactly: equal values have equal sortable bytes.
    pub fn normalized(&self) -> Numeric { todo!() }
}

impl std::fmt::Display for Numeric {
    fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { todo!() }
}
impl PartialEq for Numeric { fn eq(&self, _o: &Self) -> bool { todo!() } }
impl Eq for Numeric {}
impl PartialOrd for Numeric { fn partial_cmp(&self, o: &Self) -> Option<Ordering> { Some(self.cmp(o)) } }
impl Ord for Numeric { fn cmp(&self, _o: &Self) -> Ordering { todo!() } }
impl std::hash::Hash for Numeric { fn hash<H: std::hash::Hasher>(&self, _s: &mut H) { todo!() } }
