/** Handlers for the daemon itself. */

import { findBootFiles } from '../../control/bundles/boot-files.ts';
import type { Host } from '../../control/host.ts';
import type { DnsService } from '../../control/network/dns-service.ts';
import { viewDnsSummary } from '../../control/network/dns-view.ts';
import { storeSpace } from '../../control/store/space.ts';
import type { StandbyPool } from '../../control/vm/standby.ts';
import { formatSubnet } from '../../core/addresses.ts';
import { asBangerError } from '../../errors.ts';
import { VERSION } from '../../version.ts';
import type { Handlers } from '../server.ts';

type SystemHandlers = Pick<Handlers, 'status' | 'shutdown' | 'doctor' | 'sudoers'>;

export interface SystemActions {
  startedAt: Date;
  socketPath: string;
  /** how many commands clients run in VMs */
  commands(): number;
  standby: Pick<StandbyPool, 'count'>;
  /** Ends the daemon after the answer has left. */
  shutdown(): void;
}

export function systemHandlers(host: Host, dnsService: DnsService, actions: SystemActions): SystemHandlers {
  return {
    status: async () => {
      const vms = host.stores.vms.list();
      return {
        version: VERSION,
        pid: process.pid,
        startedAt: actions.startedAt.toISOString(),
        socket: actions.socketPath,
        stateDirectory: host.config.paths.state,
        pool: formatSubnet(host.network.pool),
        vms: { total: vms.length, running: vms.filter((vm) => vm.phase === 'running').length },
        ...(host.config.pool.ready > 0 ? { standby: actions.standby.count() } : {}),
        operations: host.operations.runningCount(),
        commands: actions.commands(),
        dns: viewDnsSummary(host.config, dnsService),
        rssBytes: process.memoryUsage.rss(),
        store: await storeSpace(host),
      };
    },
    shutdown: async () => {
      actions.shutdown();
    },
    doctor: async ({ query }) =>
      await host.checks.doctor(await findBootFiles(host).catch(asBangerError), query.command),
    sudoers: async () => ({ text: await host.checks.sudoers() }),
  };
}
