/** Guests that stand ready before anybody asks for a VM, as whoever begins one meets them. */
import type { TemplateRecord } from '../../core/template.ts';
import type { VmRecord } from '../../core/vm.ts';
import type { LaunchedVm } from './boot.ts';

/** One that was taken: the id, user and address of a VM, with disks, memory and a VMM. */
export interface Standby {
  vm: VmRecord;
  launched: LaunchedVm;
  /** whether the memory is loaded, and its guest stands still; its files are there otherwise */
  isLoaded: boolean;
}

export interface StandbyPool {
  /** how many stand ready, and how many are to */
  count(): { ready: number; wanted: number };
  /** Takes one that began as this template; it is the caller's from then on. */
  take(template: TemplateRecord): Standby | undefined;
  /** Frees one that was taken and did not become a VM; what cannot be freed the next daemon frees. */
  free(standby: Standby): Promise<void>;
  /** Begins to make them. */
  begin(): void;
  /** Makes no more, and frees those that stand ready. */
  close(): Promise<void>;
}

export const NO_STANDBY: StandbyPool = {
  count: () => ({ ready: 0, wanted: 0 }),
  take: () => undefined,
  async free() {},
  begin() {},
  async close() {},
};
