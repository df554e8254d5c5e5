/** The addresses of this banger's VMs, which no other banger on this host may give to its own. */
import { once } from 'node:events';
import { createServer, type Server } from 'node:net';
import type { Config } from '../config/schema.ts';
import { choosePool, formatSubnet, overlaps, parsePool, poolCandidates, type Subnet } from '../core/addresses.ts';
import { isTapName } from '../core/vm.ts';
import { BangerError, systemCode } from '../errors.ts';
import { type HostRoute, listRoutes } from '../network/routes.ts';
import type { Settings } from '../state/settings.ts';
import type { Runner } from '../system/runner.ts';
import { findListener, type Peer } from '../system/socket-peer.ts';

export interface PoolClaim {
  /** Takes the pool for this process if no other has it; false while another one does. */
  hold(): Promise<boolean>;
  /** Who has it instead; undefined where that is not known. */
  holder(): Promise<Peer | undefined>;
  release(): void;
}

/**
 * A claim is a socket with an abstract name: the first to listen on it has the pool, from the same moment for all who
 * share this network, and the kernel ends the claim with its process. Routes do not tell: a banger makes them with its
 * first VM, long after it has decided. See docs/decisions/0046.
 */
export function createPoolClaim(pool: string): PoolClaim {
  const name = `\0banger-pool ${pool}`;
  let server: Server | undefined;
  return {
    async hold() {
      if (server) return true;
      const attempt = createServer((socket) => socket.destroy()).unref();
      attempt.listen(name);
      try {
        await once(attempt, 'listening');
      } catch (error) {
        return systemCode(error) !== 'EADDRINUSE'; // what cannot be asked is taken to be free
      }
      server = attempt;
      return true;
    },
    holder: () => findListener(name),
    release() {
      server?.close();
      server = undefined;
    },
  };
}

export interface PoolChoice {
  config: Config;
  settings: Settings;
  runner: Runner;
  instance: number | undefined;
  vmCount: number;
  /** ranges whose route is in the ledger: a daemon that died left it, perhaps with VMs of image builds */
  ownRoutes: readonly string[];
}

export interface DecidedPool {
  pool: Subnet;
  /** not held when another banger has the pool that the configuration or VMs ask for */
  claim: PoolClaim;
}

/** The configured pool, or the one chosen earlier, or the first that no route and no other banger of this host has. */
export async function decidePool({
  config,
  settings,
  runner,
  instance,
  vmCount,
  ownRoutes,
}: PoolChoice): Promise<DecidedPool> {
  const key = 'network.pool';
  const kept = settings.get(key);
  if (config.network.pool !== 'auto') {
    const wanted = formatSubnet(parsePool(config.network.pool));
    if (kept !== undefined && kept !== wanted && vmCount > 0) {
      throw new BangerError(
        'conflict',
        `The address pool cannot change from ${kept} to ${wanted} while VMs have addresses in it.`,
        {
          hint: `Set network.pool = "${kept}", or delete the VMs first.`,
        },
      );
    }
    if (kept !== wanted) settings.set(key, wanted);
    return await claimed(parsePool(wanted));
  }
  // addresses are for life: with VMs there, the pool they live in stays
  if (kept !== undefined && vmCount > 0) return await claimed(parsePool(kept));
  const own = ownRoutes.map(parsePool);
  const isOwn = ({ destination, device, type }: HostRoute) =>
    type === 'unreachable'
      ? ownRoutes.includes(formatSubnet(destination))
      : isTapName(device) && own.some((range) => overlaps(range, destination));
  const candidates = [...(kept === undefined ? [] : [parsePool(kept)]), ...poolCandidates(instance)];
  const routes = await listRoutes(runner, config.programs.ip, candidates);
  const taken = routes.filter((route) => !isOwn(route)).map((route) => route.destination);
  const decide = (decided: DecidedPool): DecidedPool => {
    if (kept !== formatSubnet(decided.pool)) settings.set(key, formatSubnet(decided.pool));
    return decided;
  };
  /** the first that only somebody's process has, and no route */
  let named: DecidedPool | undefined;
  for (;;) {
    const pool = choosePool(candidates, taken);
    if (!pool) break;
    const decided = await claimed(pool);
    if (await decided.claim.hold()) return decide(decided);
    if (!named && isStranger(await decided.claim.holder())) named = decided;
    taken.push(pool);
  }
  if (named) return decide(named);
  throw noPool();
}

/** Whether a process belongs to neither root nor this user: it may have a name and mean nothing by it. */
export function isStranger(peer: Peer | undefined): boolean {
  return peer !== undefined && peer.uid !== 0 && peer.uid !== process.geteuid?.();
}

async function claimed(pool: Subnet): Promise<DecidedPool> {
  const claim = createPoolClaim(formatSubnet(pool));
  await claim.hold();
  return { pool, claim };
}

function noPool(): BangerError {
  return new BangerError('host_unprepared', 'Every address range banger would use is taken on this host.', {
    hint: 'Choose a free one, for example: BANGER_NETWORK_POOL=10.77.0.0/16, or network.pool in the configuration file.',
  });
}
