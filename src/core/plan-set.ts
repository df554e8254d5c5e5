/** What changing a VM's settings means: which of them count at once, and which from the next start on. */
import { BangerError } from '../errors.ts';
import { hasGuest, type RestartPolicy, type VmRecord } from './vm.ts';

export interface Settable {
  vcpus: number;
  memoryMib: number;
  nat: boolean;
  autostart: boolean;
  restartPolicy: RestartPolicy;
  idleSuspendMs: number;
}

export interface PlannedChange {
  setting: keyof Settable;
  from: number | boolean | string;
  to: number | boolean | string;
  /** `at-next-start`: a running guest keeps what it was started with */
  applies: 'now' | 'at-next-start';
}

/** Fixed when the guest boots. */
const FIXED_AT_START: ReadonlySet<keyof Settable> = new Set(['vcpus', 'memoryMib']);

const SETTABLE = ['vcpus', 'memoryMib', 'nat', 'autostart', 'restartPolicy', 'idleSuspendMs'] as const;

/** What is undefined stays as it is. */
export type Wanted = { [K in keyof Settable]?: Settable[K] | undefined };

/**
 * Changes in the order of the settings; what has its value already is none.
 * @throws BangerError `invalid_input` when nothing was asked for
 */
export function planSet(vm: VmRecord, wanted: Wanted): PlannedChange[] {
  if (SETTABLE.every((setting) => wanted[setting] === undefined)) {
    throw new BangerError('invalid_input', `There is nothing to set for ${vm.name}.`, {
      hint: 'Say what, for example: banger vm set NAME --memory 2G   (all settings: banger vm set --help)',
    });
  }
  return SETTABLE.flatMap((setting) => {
    const to = wanted[setting];
    if (to === undefined || to === vm[setting]) return [];
    const waits = FIXED_AT_START.has(setting) && hasGuest(vm);
    return [{ setting, from: vm[setting], to, applies: waits ? ('at-next-start' as const) : ('now' as const) }];
  });
}

/** Values of the record that the current run does not have yet. */
export interface PendingValues {
  hostname?: string;
  vcpus?: number;
  memoryMib?: number;
}

/** Null unless the VM runs with other values than its record has. */
export function pendingValues(
  vm: Pick<VmRecord, 'phase' | 'name' | 'vcpus' | 'memoryMib' | 'run'>,
): PendingValues | null {
  const { run } = vm;
  if (run === null || !(hasGuest(vm) || vm.phase === 'stopping')) return null;
  const pending: PendingValues = {
    ...(run.hostname === vm.name ? {} : { hostname: vm.name }),
    ...(run.vcpus === vm.vcpus ? {} : { vcpus: vm.vcpus }),
    ...(run.memoryMib === vm.memoryMib ? {} : { memoryMib: vm.memoryMib }),
  };
  return Object.keys(pending).length > 0 ? pending : null;
}
