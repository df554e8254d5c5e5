/** `banger ls`: the command people type most, so it reads nothing it does not need. */
import type { Vm, VmState } from '../../../api/vm.ts';
import { formatDuration, formatSize, MIB } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import type { Colour, Paint } from '../../output/paint.ts';
import { renderTable } from '../../output/table.ts';
import { listed, NAMES, nameLines } from '../../shared/if-running.ts';

const HEADER = ['NAME', 'STATE', 'ADDRESS', 'CPU', 'MEM', 'IMAGE', 'UPTIME'];

const STATE_COLOURS: Record<VmState, Colour> = {
  creating: 'yellow',
  starting: 'yellow',
  running: 'green',
  paused: 'red',
  stopping: 'yellow',
  stopped: 'dim',
  suspending: 'yellow',
  suspended: 'cyan',
  resuming: 'yellow',
  failed: 'red',
};

const HEALTH_COLOURS: Record<NonNullable<Vm['health']>, Colour> = {
  starting: 'yellow',
  healthy: 'green',
  unhealthy: 'red',
};

export default defineCommand({
  options: NAMES,
  examples: ['ls', "ls --json | jq -r '.[].address'", 'ls --names'],
  run: (ctx, { options }) => listed(ctx, options.names, (api) => api.call('listVms', {})),
  print(vms, ctx, options) {
    if (options.names) return nameLines(vms.map(({ name }) => name));
    for (const { name, problem } of vms) if (problem !== null) ctx.warn(`${name}: ${problem}`);
    if (vms.length > 0) return renderVms(vms, ctx.paint, Date.now());
    ctx.talk('No VMs yet. Make one with: banger run NAME');
    return '';
  },
});

/** One that runs and still boots is shown as what it is good for. */
function stateCell({ state, ready, health }: Vm, paint: Paint) {
  if (state === 'running' && !ready) return { text: 'reachable', paint: (text: string) => paint('yellow', text) };
  if (state === 'running' && health) {
    return { text: `${state} (${health})`, paint: (text: string) => paint(HEALTH_COLOURS[health], text) };
  }
  return { text: state, paint: (text: string) => paint(STATE_COLOURS[state], text) };
}

/** One that is suspended has it on disk. */
function memoryCell({ memoryMib, suspended }: Vm): string {
  const size = formatSize(memoryMib * MIB);
  return suspended === null ? size : `${size}, ${formatSize(suspended.memoryBytes)} on disk`;
}

export function renderVms(vms: readonly Vm[], paint: Paint, now: number): string {
  const rows = vms.map((vm) => [
    vm.name,
    vm.problem === null
      ? stateCell(vm, paint)
      : { text: `${vm.state} (!)`, paint: (text: string) => paint('red', text) },
    vm.address,
    String(vm.vcpus),
    memoryCell(vm),
    vm.image,
    vm.startedAt === null ? '-' : formatDuration(Math.max(now - Date.parse(vm.startedAt), 0)),
  ]);
  return renderTable(HEADER, rows, paint);
}
