/** VMMs that were launched before anybody asked for a VM, as whoever begins one meets them. */
import type { TemplateRecord } from '../../core/template.ts';
import type { VmRecord } from '../../core/vm.ts';
import type { BootFiles } from '../../preflight/context.ts';
import type { LaunchedVm } from './boot.ts';

/** One that was taken: the id, user and address of a VM, with a VMM that waits for its memory. */
export interface Blank {
  vm: VmRecord;
  launched: LaunchedVm;
}

export interface Blanks {
  /** how many wait, and how many are to */
  count(): { ready: number; wanted: number };
  /** Takes one that such a template can be loaded into; it is the caller's from then on. */
  take(boot: BootFiles, template: TemplateRecord): Promise<Blank | undefined>;
  /** Frees one that was taken and did not become a VM; what cannot be freed the next daemon frees. */
  free(blank: Blank): Promise<void>;
  /** Begins to make them. */
  begin(): void;
  /** Makes no more, and frees those that wait. */
  close(): Promise<void>;
}

export const NO_BLANKS: Blanks = {
  count: () => ({ ready: 0, wanted: 0 }),
  take: async () => undefined,
  async free() {},
  begin() {},
  async close() {},
};
