//! Rows into values and back. Whatever does not fit is an error that names the column; nothing is cut.

use sqlx::Row;
use sqlx::any::AnyRow;
use std::fmt::Write;

use crate::control_plane::store::{StoreError, StoreResult};

/// A number for a column: SQL knows no unsigned ones.
pub(super) fn int(value: u64) -> StoreResult<i64> {
    i64::try_from(value).map_err(|_| StoreError::Failed(format!("{value} is too large for a column")))
}

/// The same for a number that may be missing.
pub(super) fn optional_int(value: Option<u64>) -> StoreResult<Option<i64>> {
    value.map(int).transpose()
}

/// A number that is only compared with others: one that is too large for a column is larger than all in it.
pub(super) fn clamped(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// As many rows as this; a number that is too large for a column is as good as all.
pub(super) fn rows(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// How many there are of something in memory.
pub(super) fn count(length: usize) -> StoreResult<u64> {
    u64::try_from(length).map_err(|_| StoreError::Failed(format!("{length} is too many")))
}

/// `($1,$2),($3,$4)`: placeholders of so many rows with so many columns, for a statement that writes many at once.
pub(super) fn placeholders(rows: usize, columns: usize) -> String {
    let mut text = String::with_capacity(rows * columns * 6);
    for row in 0..rows {
        text.push_str(if row == 0 { "(" } else { ",(" });
        for column in 0..columns {
            let separator = if column == 0 { "" } else { "," };
            // Writing into a String can not fail.
            let _ = write!(text, "{separator}${}", row * columns + column + 1);
        }
        text.push(')');
    }
    text
}

/// The columns of a row by their names.
pub(super) trait Columns {
    fn text(&self, column: &str) -> StoreResult<String>;
    fn optional_text(&self, column: &str) -> StoreResult<Option<String>>;
    fn number(&self, column: &str) -> StoreResult<u64>;
    fn optional_number(&self, column: &str) -> StoreResult<Option<u64>>;
    fn bytes<const N: usize>(&self, column: &str) -> StoreResult<[u8; N]>;
}

impl Columns for AnyRow {
    fn text(&self, column: &str) -> StoreResult<String> {
        Ok(self.try_get(column)?)
    }

    fn optional_text(&self, column: &str) -> StoreResult<Option<String>> {
        Ok(self.try_get(column)?)
    }

    fn number(&self, column: &str) -> StoreResult<u64> {
        unsigned(column, self.try_get(column)?)
    }

    fn optional_number(&self, column: &str) -> StoreResult<Option<u64>> {
        let value: Option<i64> = self.try_get(column)?;
        value.map(|value| unsigned(column, value)).transpose()
    }

    fn bytes<const N: usize>(&self, column: &str) -> StoreResult<[u8; N]> {
        let bytes: Vec<u8> = self.try_get(column)?;
        let length = bytes.len();
        bytes
            .try_into()
            .map_err(|_| StoreError::Failed(format!("column {column} has {length} bytes instead of {N}")))
    }
}

fn unsigned(column: &str, value: i64) -> StoreResult<u64> {
    u64::try_from(value).map_err(|_| StoreError::Failed(format!("column {column} is negative: {value}")))
}
