/** Where fcqemu does not answer as Firecracker 1.16.1 does, and why. `docs/fcqemu.md` repeats the reasons. */
import { ordered, type Sequence, type Step } from './sequences.ts';

export interface Refusal {
  /** how the page on fcqemu names it */
  what: string;
  reason: string;
}

/** What is refused with a message that ends in `not supported by fcqemu`; later answers show that it is missing. */
interface FeatureRefusal extends Refusal {
  message: RegExp;
  /** sections of `GET /vm/config` that lack it */
  missing: string[];
}

const FEATURES: FeatureRefusal[] = [
  {
    what: 'CPU templates',
    reason: 'they mask features of a real processor, which an emulated one does not have',
    message: /^Machine config error: the CPU template \w+ is /,
    missing: ['machine-config'],
  },
  {
    what: 'CPU modifiers',
    reason: 'QEMU takes features by name, no bits of CPUID leaves and MSRs',
    message: /^Configure CPU error: CPU modifiers are /,
    missing: [],
  },
  {
    what: 'huge pages of 2M',
    reason: 'memory files of snapshots, and what clones share of them, are made of small pages',
    message: /^Machine config error: huge pages of 2M are /,
    missing: ['machine-config'],
  },
  {
    what: 'pmem devices',
    reason: 'QEMU’s microvm machine takes no memory devices',
    message: /^Pmem config error: pmem devices are /,
    missing: ['pmem'],
  },
  {
    what: 'memory hotplug',
    reason: 'QEMU’s microvm machine takes no memory devices',
    message: /^Memory hotplug config error: hotpluggable memory is /,
    missing: ['memory-hotplug'],
  },
  {
    what: 'free page hinting',
    reason: 'QEMU asks the guest for hints while it migrates, and at no other time',
    message: /^Balloon config error: free page hinting is /,
    missing: ['balloon'],
  },
];

/** Single steps, by sequence and number of the step. */
const STEPS: (Refusal & { steps: Record<string, number[]> })[] = [
  {
    what: 'lines of more than 1024 bytes',
    reason:
      'they are answered once; Firecracker answers each further kilobyte of them, and how often depends on how they arrive',
    steps: { 'too-long-uri': [0], 'too-long-header': [0], 'mmds-limit': [2] },
  },
];

/** Every difference there is. */
export const REFUSALS: Refusal[] = [
  ...FEATURES,
  ...STEPS,
  {
    what: 'the version of snapshots',
    reason: 'they have a format of their own',
  },
  {
    what: 'places in the source',
    reason: '`--show-log-origin` and the line of a panic name files and lines of fcqemu',
  },
  {
    what: 'log lines about KVM and the processor',
    reason:
      'KVM is not called here: `Host CPU vendor ID`, `KVM_KVMCLOCK_CTRL call failed`, `MSR_IA32_TSC_DEADLINE is 0`',
  },
  {
    what: 'log lines about the inside of Firecracker',
    reason:
      '`Got a spurious notification from api thread`, `Failed to update balloon stats` tell of its own threads and queues',
  },
  {
    what: 'how soon a process that fails is gone',
    reason: 'its socket takes connections for some milliseconds more, and never answers them',
  },
  {
    what: 'signals that the caller ignores',
    reason: 'SIGINT and SIGQUIT end fcqemu even then, because Node gives every signal its default back when it starts',
  },
];

/** Lines of Firecracker's log that fcqemu does not write. */
const MISSING_LOG_LINES = [
  ...[/(?:Host|Snapshot) CPU vendor ID/, /KVM_KVMCLOCK_CTRL call failed/, /MSR_IA32_TSC_DEADLINE is 0/],
  ...[/Got a spurious notification/, /Failed to update balloon stats/, / (?:vmgenid|mptable|acpi): /],
];

/** Lines that both write and that the recordings lack. */
const NOT_RECORDED = [/Artificially kick devices/, /If the VM was restored from snapshot/];

/** A log, or a metrics file, without what may differ. */
export function comparableFile(text: string): string {
  const skipped = [...MISSING_LOG_LINES, ...NOT_RECORDED];
  return (
    text
      .split('\n')
      .filter((line) => !skipped.some((pattern) => pattern.test(line)))
      .join('\n')
      // the tap counts what the host sends of itself
      .replace(/"(utc_timestamp_ms|rx_bytes_count|rx_packets_count)":\d+/g, '"$1":0')
  );
}

/** A step that was answered in another way than by Firecracker, for no reason that is listed. */
export interface Difference {
  step: Step;
  expected: string;
  actual: string;
}

/** Compares the answers to a sequence with those that were recorded. */
export function differences({ name, steps, expected, unordered }: Sequence, actual: readonly string[]): Difference[] {
  const found: Difference[] = [];
  const missing = new Set<string>();
  for (const [at, step] of steps.entries()) {
    const isFile = 'file' in step;
    const comparable = (answer = '') => (isFile ? comparableFile(answer) : unordered ? ordered(answer) : answer);
    const [wanted, got] = [comparable(expected[at]), comparable(actual[at])];
    if (wanted === got || STEPS.some(({ steps: listed }) => listed[name]?.includes(at))) continue;
    const feature = featureOf(got);
    for (const section of feature?.missing ?? []) missing.add(section);
    if (feature || without(wanted, step, missing) === without(got, step, missing)) continue;
    found.push({ step, expected: wanted, actual: got });
  }
  return found;
}

/** Whether something of a sequence was refused, so that its log differs too. */
export function isRefused({ name }: Sequence, actual: readonly string[]): boolean {
  return actual.some(featureOf) || STEPS.some(({ steps }) => name in steps);
}

function featureOf(answer: string): FeatureRefusal | undefined {
  const [, message = ''] = /^400D? (.* not supported by fcqemu)$/.exec(answer) ?? [];
  return FEATURES.find((feature) => feature.message.test(message));
}

/** An answer without what depends on the missing sections. */
function without(answer: string, step: Step, missing: ReadonlySet<string>): string {
  const request = Array.isArray(step) ? step.slice(0, 2).join(' ') : '';
  if (request === 'GET /machine-config' && missing.has('machine-config')) return '';
  if (request === 'GET /balloon' && missing.has('balloon')) return '';
  if (request !== 'GET /vm/config' || !answer.startsWith('200 ')) return answer;
  const config = JSON.parse(answer.slice(4)) as Record<string, unknown>;
  for (const section of missing) delete config[section];
  return JSON.stringify(config);
}
