/** The two sizes of a test: `npm test` runs the small one, `npm run test:full` the full one. */
export const isFull = process.env['FULL_SIZE'] === '1'

/** A file that uses it is named `*.sized.test.ts`, which `npm run test:full` runs. */
export function size<Size> (small: Size, full: Size): Size {
  return isFull ? full : small
}
