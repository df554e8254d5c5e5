/** `banger vm set`: changes a VM, and says what counts now and what from its next start on. */
import type { RestartPolicy, VmSetResult } from '../../../api/vm.ts';
import { BangerError } from '../../../errors.ts';
import { formatDuration, formatSize, MIB } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import { renderTable } from '../../output/table.ts';
import { perform } from '../../shared/operations.ts';
import { AUTOSTART_HINT, idleSuspendMs, RESTART_POLICIES } from '../../shared/vm-options.ts';

const NAMES = {
  vcpus: 'processors',
  memoryMib: 'memory',
  nat: 'reaches the outside',
  autostart: 'autostart',
  restartPolicy: 'restart policy',
  idleSuspendMs: 'suspended when idle',
} as const;

type Change = VmSetResult['changes'][number];

export default defineCommand({
  positionals: ['name'],
  options: {
    vcpus: { type: 'count', help: 'virtual processors, 1 to 32' },
    memory: { type: 'memory', short: 'm', help: 'memory, e.g. 512M or 2G; a bare number counts MiB' },
    nat: {
      type: 'switch',
      offShort: 'N',
      help: 'let it reach the outside',
      offHelp: 'keep it from reaching anything outside this host',
    },
    autostart: {
      type: 'switch',
      offShort: 'A',
      help: 'start it whenever this host comes up',
      offHelp: 'leave it stopped when this host comes up',
    },
    restart: {
      type: 'text',
      placeholder: 'policy',
      choices: RESTART_POLICIES,
      help: 'what to do when it ends by itself',
    },
    idleSuspend: { type: 'text', placeholder: 'time', help: 'suspend it after so long without use, e.g. 30m, or off' },
    disk: { type: 'size', help: 'use `banger disk resize` for this' },
    workDisk: { type: 'size', help: 'use `banger disk resize` for this' },
    dryRun: { type: 'flag', help: 'only say what would change' },
  },
  completes: { name: ['vm'] },
  description: 'Processors and memory of a VM that runs change at its next start; all else counts at once.',
  examples: ['vm set web --memory 4G --vcpus 2', 'vm set web --no-nat', 'vm set web --autostart --restart on-failure'],
  async run(ctx, { args: { name }, options }) {
    if (options.disk !== undefined || options.workDisk !== undefined) {
      throw new BangerError('invalid_input', 'Disks are resized by a command of their own.', {
        hint: `banger disk resize ${name} ${options.disk === undefined ? '--work 20G' : '--root 8G'}`,
      });
    }
    const body = {
      vcpus: options.vcpus,
      memoryMib: options.memory,
      nat: options.nat,
      autostart: options.autostart,
      // the parser takes none but these
      ...(options.restart === undefined ? {} : { restartPolicy: options.restart as RestartPolicy }),
      ...(options.idleSuspend === undefined ? {} : { idleSuspendMs: idleSuspendMs(options.idleSuspend) }),
      ...(options.dryRun ? { dryRun: true } : {}),
    };
    const { result } = await perform(ctx, `set ${name}`, () => ctx.api.call('setVm', { params: { name }, body }));
    if (body.idleSuspendMs && !options.dryRun) ctx.talk(IDLE_HINT);
    if (options.autostart && !options.dryRun) ctx.talk(AUTOSTART_HINT);
    return result as VmSetResult;
  },
  print({ vm, changes }, ctx) {
    if (changes.length === 0) return `${vm.name} is like that already`;
    if (changes.some(({ applies }) => applies === 'at-next-start')) {
      ctx.talk(`What waits for the next start comes with: banger restart ${vm.name}`);
    }
    const rows = changes.map((change) => [
      NAMES[change.setting],
      show(change, change.from),
      show(change, change.to),
      change.applies === 'now' ? 'now' : 'at the next start',
    ]);
    return renderTable(['SETTING', 'WAS', 'IS', 'COUNTS'], rows, ctx.paint);
  },
});

/** What people find out too late. */
const IDLE_HINT = 'While it is suspended its timers do not fire; ssh, exec, cp and start let it go on.';

function show({ setting }: Change, value: Change['from']): string {
  if (setting === 'idleSuspendMs') return value === 0 ? 'no' : `after ${formatDuration(Number(value))}`;
  if (setting === 'memoryMib') return formatSize(Number(value) * MIB);
  return typeof value === 'boolean' ? (value ? 'yes' : 'no') : String(value);
}
