/** How the long actions on bundles say where they are. */

export interface BundleEvent {
  /** what is being done, e.g. `install packages` */
  phase: string;
  /** the part of it, or the thing it is done to */
  detail?: string;
  /** how much of `total` is done, in the unit of both */
  done?: number;
  total?: number;
}

export type BundleProgress = (event: BundleEvent) => void;
