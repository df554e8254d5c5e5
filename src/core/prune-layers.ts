/** Which layers of image builds go: a layer is only ever a shortcut for the next build, so every one may. */

export interface PrunableLayer {
  key: string;
  /** key of the layer it was made from */
  parent: string | null;
  /** what its file takes, in `bytes` */
  sizeBytes: number;
  /** ISO 8601 */
  usedAt: string;
}

export interface PruneRules {
  /** digests of what the images that exist were built from: these layers and their parents speed up the next build */
  referenced: ReadonlySet<string>;
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
 * Without rules the layers go that no image that exists was built from. With a size or an age those decide, and
 * layers without an image go before others.
 */
export function planPrune<T extends PrunableLayer>(layers: readonly T[], rules: PruneRules): PrunePlan<T> {
  const referenced = withParents(layers, rules.referenced);
  const { keepBytes, unusedSince, all = false } = rules;
  const ruled = keepBytes !== undefined || unusedSince !== undefined;
  const tooOld = ({ usedAt }: T) => unusedSince !== undefined && usedAt < unusedSince;
  const goes = (layer: T) => all || tooOld(layer) || (!ruled && !referenced.has(layer.key));
  const remove = layers.filter(goes);
  const left = layers
    .filter((layer) => !goes(layer))
    .sort(
      (a, b) =>
        Number(referenced.has(a.key)) - Number(referenced.has(b.key)) ||
        (a.usedAt < b.usedAt ? -1 : a.usedAt > b.usedAt ? 1 : 0),
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

function withParents(layers: readonly PrunableLayer[], keys: ReadonlySet<string>): Set<string> {
  const byKey = new Map(layers.map((layer) => [layer.key, layer]));
  const found = new Set<string>();
  for (const key of keys) {
    let at = byKey.get(key);
    while (at && !found.has(at.key)) {
      found.add(at.key);
      at = at.parent === null ? undefined : byKey.get(at.parent);
    }
  }
  return found;
}
