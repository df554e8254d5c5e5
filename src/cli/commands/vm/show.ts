/** `banger vm show`: one VM in full, with its disks and where its last boot spent its time. */
import type { VmDetail } from '../../../api/vm.ts';
import { formatDuration, formatSize, MIB } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import type { Paint } from '../../output/paint.ts';
import { renderFields, renderTable } from '../../output/table.ts';
import { renderTimeline } from '../../output/timeline.ts';
import { startTimes } from '../../shared/start-options.ts';

export default defineCommand({
  positionals: ['name'],
  completes: { name: ['vm'] },
  examples: ['vm show web', 'show web --json'],
  run: (ctx, { args }) => ctx.api.call('showVm', { params: { name: args.name } }),
  print: (vm, ctx) => renderVm(vm, ctx.paint, Date.now()),
});

/** The value of the current run, and the one that waits for the next. */
function pendingText(vm: VmDetail, key: 'vcpus' | 'memoryMib', show: (value: number) => string): string {
  const pending = vm.pending?.[key];
  if (pending === undefined || vm.current === null) return show(vm[key]);
  return `${show(vm.current[key])}, ${show(pending)} from the next start on`;
}

function userDataOf({ userData }: VmDetail): string | undefined {
  if (userData === null) return undefined;
  const { by, state, detail } = userData;
  return `${by === 'script' ? 'its script' : 'cloud-init'} ${{ running: 'is under way', done: 'is done', failed: `failed: ${detail}` }[state]}`;
}

/** What the guest says of the process of its image. */
function processOf({ process }: VmDetail): string | undefined {
  if (process === null || process.state === 'none') return undefined;
  const { state, detail, restarts, health } = process;
  const times = restarts === 0 ? '' : `, begun again ${restarts === 1 ? 'once' : `${restarts} times`}`;
  const how = detail === '' ? '' : state === 'running' ? `, ended before with ${detail}` : ` (${detail})`;
  const well = health === null ? '' : `, ${health.state}${health.detail === '' ? '' : ` (${health.detail})`}`;
  return `${state}${how}${times}${well}`;
}

function restartsOf({ restarts }: VmDetail, now: number): string | undefined {
  if (restarts === null) return undefined;
  const { attempts, nextAt } = restarts;
  if (nextAt === null) return `attempt ${attempts}`;
  return `attempt ${attempts} in ${formatDuration(Math.max(0, Date.parse(nextAt) - now))}`;
}

function idleText({ idleSuspendMs, awakeUntil }: VmDetail, now: number): string | undefined {
  if (idleSuspendMs === 0) return undefined;
  const held = awakeUntil !== null && Date.parse(awakeUntil) > now ? `, not before ${awakeUntil}` : '';
  return `suspended after ${formatDuration(idleSuspendMs)} without use${held}`;
}

function temporaryOf({ temporary }: VmDetail): string | undefined {
  if (temporary === null) return undefined;
  return temporary.holder === null ? 'yes' : `until process ${temporary.holder} ends`;
}

function suspendedOf({ suspended }: VmDetail, now: number): string | undefined {
  if (suspended === null) return undefined;
  const ago = formatDuration(Math.max(0, now - Date.parse(suspended.at)));
  return `${ago} ago, memory takes ${formatSize(suspended.memoryBytes)} on disk`;
}

function stateOf(vm: VmDetail): string {
  if (vm.failure !== null) return `${vm.state}: ${vm.failure}`;
  return vm.state === 'running' && !vm.ready ? 'running, not ready yet' : vm.state;
}

function renderVm(vm: VmDetail, paint: Paint, now: number): string {
  const uptime = vm.startedAt === null ? undefined : formatDuration(Math.max(now - Date.parse(vm.startedAt), 0));
  const fields: [string, string | undefined][] = [
    ['name', vm.name],
    ['id', vm.id],
    ['state', stateOf(vm)],
    ['failed units', vm.state === 'running' && vm.failedUnits.length > 0 ? vm.failedUnits.join(', ') : undefined],
    ['problem', vm.problem ?? undefined],
    ['temporary', temporaryOf(vm)],
    ['forked from', vm.forkedFrom?.name],
    ['suspended', suspendedOf(vm, now)],
    [
      'cannot go on',
      vm.notResumable.length === 0
        ? undefined
        : `${vm.notResumable.join('; ')}. Nothing is deleted: banger start --discard-memory ${vm.name}`,
    ],
    ['process', processOf(vm)],
    ['user data', userDataOf(vm)],
    ['restarts', restartsOf(vm, now)],
    ['uptime', uptime],
    ['image', vm.image],
    ['address', vm.nat ? vm.address : `${vm.address}, reaches nothing outside this host`],
    ['processors', pendingText(vm, 'vcpus', String)],
    ['memory', pendingText(vm, 'memoryMib', (mib) => formatSize(mib * MIB))],
    [
      'host name',
      vm.pending?.hostname === undefined ? undefined : `${vm.current?.hostname}, ${vm.name} from the next start on`,
    ],
    ['autostart', vm.autostart ? 'yes, with the host' : 'no'],
    ['restart', vm.restartPolicy],
    ['when idle', idleText(vm, now)],
    ['snapshots', vm.snapshots === 0 ? undefined : `${vm.snapshots}, see: banger snapshot list ${vm.name}`],
    ['created', vm.createdAt],
    ['run by', runBy(vm)],
    ['VMM limits', vm.vmmLimits.length === 0 ? undefined : vm.vmmLimits.join('; ')],
    ['agent', agentOf(vm)],
    ['device', vm.pid === null ? undefined : `${vm.tap}, MAC ${vm.mac}`],
    ['directory', vm.directory],
    ['console log', vm.consoleLog],
    ['VMM log', vm.vmmLog],
  ];
  const shown = fields.filter((field): field is [string, string] => field[1] !== undefined);
  const parts = [renderFields(shown, paint)];
  if (vm.disks.length > 0) {
    const rows = vm.disks.map((disk) => [
      disk.role,
      formatSize(disk.apparentBytes),
      formatSize(disk.allocatedBytes),
      disk.path,
    ]);
    parts.push(renderTable(['DISK', 'SIZE', 'ON HOST', 'FILE'], rows, paint));
  }
  if (vm.lastEnd !== null) {
    const { at, why, lines } = vm.lastEnd;
    const said = lines.map((line) => `\n  ${paint('dim', line)}`).join('');
    parts.push(`${paint('dim', `LAST END NOBODY WANTED  ${at}`)}\n${why}${said}`);
  }
  if (vm.bootTimeline.length > 0) {
    const total = vm.bootMs === null ? 'not finished' : startTimes(vm);
    parts.push(`${paint('dim', `LAST BOOT  ${total}`)}\n${renderTimeline(vm.bootTimeline, paint)}`);
  }
  return parts.join('\n\n');
}

function runBy({ vmm, vmmVersion, pid }: VmDetail): string | undefined {
  if (vmm === null) return undefined;
  // fcqemu says the release it conforms to, with its own name after a plus
  const version = vmmVersion === null ? '' : ` ${vmmVersion.replace('+fcqemu', '')}`;
  return `${vmm}${version}${pid === null ? '' : `, process ${pid}`}`;
}

function agentOf({ agent }: VmDetail): string | undefined {
  switch (agent?.state) {
    case 'present':
      return agent.version ?? 'present';
    case 'absent':
      return 'none, so commands run over SSH';
    case 'troubled':
      return `cannot be used, so commands run over SSH: ${agent.reason}`;
    default:
      return undefined;
  }
}
