/** `banger ports`: where the programs of a VM listen, and how to reach them. */
import type { VmPort } from '../../../api/stats.ts';
import { defineCommand } from '../../command.ts';
import { renderTable } from '../../output/table.ts';

export default defineCommand({
  positionals: ['name'],
  completes: { name: ['vm'] },
  examples: ['ports web', "ports web --json | jq -r '.[].url // empty'"],
  run: (ctx, { args: { name } }) => ctx.api.call('listPorts', { params: { name } }),
  print(ports, ctx) {
    if (ports.length === 0) {
      ctx.talk('Nothing listens on a TCP port.');
      return '';
    }
    const rows = ports.map((port) => [
      String(port.port),
      port.processes.length === 0 ? '-' : [...new Set(port.processes.map(({ name }) => name))].join(', '),
      port.addresses.join(', ') || '-',
      whereTo(port),
    ]);
    return renderTable(['PORT', 'PROCESS', 'LISTENS ON', 'REACH IT AT'], rows, ctx.paint);
  },
});

function whereTo({ reach, url, port }: VmPort): string {
  if (reach === 'none') return 'nothing listens there yet, which the image says';
  if (reach === 'loopback') return 'only inside the VM (loopback)';
  if (reach === 'other') return 'only on that address';
  return url ?? `port ${port}`;
}
