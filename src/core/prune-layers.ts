/** Which layers of image builds go: a layer is only ever a shortcut for the next build, so every one may. */

export interface PrunableLayer {
  key: string;
  /** image or bundle the build began with */
  base: string;
  /** what its file takes, in `bytes` */
  sizeBytes: number;
  /** ISO 8601 */
  usedAt: string;
}

export interface PruneRules {
  /** what the images that exist were built from: layers of these bases speed up the next build of them */
  bases: ReadonlySet<string>;
  /** layers are removed, the longest unused first, until no more than this is left, in `bytes` */
  keepBytes?: number;
  /** every layer that was not used since is removed; ISO 8601 */
  unusedSince?: string;
  /** every layer is removed */
  all?: boolean;
}

export interface PrunePlan<T> {
  remove: T[];
  keep: T[];
}

/**
 * Without rules the layers go from whose base no image that exists was built. With a size or an age those decide,
 * and layers without an image go before others.
 */
export function planPrune<T extends PrunableLayer>(layers: readonly T[], rules: PruneRules): PrunePlan<T> {
  const referenced = ({ base }: T) => rules.bases.has(base);
  const { keepBytes, unusedSince, all = false } = rules;
  const ruled = keepBytes !== undefined || unusedSince !== undefined;
  const tooOld = ({ usedAt }: T) => unusedSince !== undefined && usedAt < unusedSince;
  const goes = (layer: T) => all || tooOld(layer) || (!ruled && !referenced(layer));
  const remove = layers.filter(goes);
  const left = layers
    .filter((layer) => !goes(layer))
    .sort(
      (a, b) =>
        Number(referenced(a)) - Number(referenced(b)) || (a.usedAt < b.usedAt ? -1 : a.usedAt > b.usedAt ? 1 : 0),
    );
  let total = left.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  while (keepBytes !== undefined && total > keepBytes) {
    const next = left.shift();
    if (!next) break;
    total -= next.sizeBytes;
    remove.push(next);
  }
  return { remove, keep: left };
}
