// How high a change is drawn: a calm time must look calm, and a fall no deeper than it is.

// A chart shows at least this part of the value's size, so a change of 1 % takes a twentieth of a
// Greek's chart. Prices move less: 1 % is an ordinary day's range of an index.
const LEAST_OF_A_SUM = 0.2;
const LEAST_OF_A_PRICE = 0.01;
const ROOM = 0.1; // of the span, above and below

/** The lowest and highest number of an axis for values from `low` to `high` (null: no values). */
export function range(low, high, isPrice) {
  if (!Number.isFinite(low ?? NaN) || !Number.isFinite(high ?? NaN)) return [0, 1];
  const size = Math.max(Math.abs(low), Math.abs(high));
  if (size === 0) return [-1, 1];
  const least = size * (isPrice ? LEAST_OF_A_PRICE : LEAST_OF_A_SUM);
  const widen = Math.max(0, least - (high - low)) / 2;
  let bottom = low - widen;
  let top = high + widen;
  // What has moved by half its size is drawn from zero.
  if (!isPrice && low > 0 && low <= high - low) bottom = 0;
  if (!isPrice && high < 0 && -high <= high - low) top = 0;
  return uPlot.rangeNum(bottom, top, ROOM, true); // true: the room ends at zero
}
