/** What a VM's link needs of the host: taps, packet rules, and an address range nobody else uses. */
import { access, constants, stat } from 'node:fs/promises';
import { formatSubnet, overlaps, parseSubnet } from '../../core/addresses.ts';
import { hostMacFor, isTapName, macFor } from '../../core/vm.ts';
import { BangerError, messageOf, systemCode } from '../../errors.ts';
import { GUEST_DNS_PORT, renderRules } from '../../network/nftables.ts';
import { describeRoute, type HostRoute, listRoutes } from '../../network/routes.ts';
import { firstSettingUp, type Tap } from '../../network/tap.ts';
import { findProgram } from '../../system/host-facts.ts';
import { SAMPLE_TAP } from '../../system/privileged-commands.ts';
import type { Argv } from '../../system/runner.ts';
import { type Check, failed, notApplicable, ok, rootRepair, TRIAL_LIMIT_MS, warning } from '../check.ts';
import type { PreflightContext } from '../context.ts';
import { asRoot } from '../fixes.ts';
import { NOTHING_LATELY } from '../lately.ts';
import { programsOutcome } from '../programs.ts';

const LOAD_TUN = rootRepair('modprobe', 'tun');
const LOAD_NFT = rootRepair('modprobe', '-a', 'nf_tables', 'nft_chain_nat', 'nft_masq', 'nft_ct');

/** Addresses of trials, which are made in a network of their own. */
const SAMPLE_LINK = { address: '172.30.0.2', gateway: '172.30.0.1' };

export const tapCheck: Check<PreflightContext> = {
  id: 'network.tap',
  title: 'network devices',
  async run(context) {
    const programs = await programsOutcome(context, [context.config.programs.ip]);
    if (programs.status === 'failed') return programs;
    const device = context.tunDevice ?? '/dev/net/tun';
    const lookedFor = `${programs.detail} and ${device}`;
    try {
      if (!(await stat(device)).isCharacterDevice()) {
        return failed(lookedFor, `${device} is no device.`, asRoot(`rm ${device} && modprobe tun`, context.uid));
      }
      await access(device, constants.R_OK | constants.W_OK);
    } catch (error) {
      if (systemCode(error) === 'ENOENT') {
        return failed(lookedFor, `There is no ${device}.`, asRoot('modprobe tun', context.uid), LOAD_TUN);
      }
      const detail = `This user may not open ${device}: ${messageOf(error)}`;
      return failed(lookedFor, detail, asRoot(`chmod 0666 ${device}`, context.uid));
    }
    const refusal = await tryInNamespace(context, [context.config.programs.ip, '-batch', '-'], trialTap(context));
    if (refusal !== undefined) {
      return failed(lookedFor, `A trial tap failed: ${refusal}`, asRoot('modprobe tun', context.uid), LOAD_TUN);
    }
    return ok(lookedFor, 'taps can be made');
  },
};

/** What `ip` is told for a VM's device. */
function trialTap({ hasIpv6 }: PreflightContext): string {
  const tap: Tap = {
    ...{ name: SAMPLE_TAP, ...SAMPLE_LINK, mtu: 1500, ownerUid: 0 },
    mac: macFor(SAMPLE_LINK.address),
    hostMac: hostMacFor(SAMPLE_LINK.address),
  };
  const lines = [['tuntap', 'add', 'dev', SAMPLE_TAP, 'mode', 'tap'], ...firstSettingUp(tap, hasIpv6)];
  return lines.map((words) => `${words.join(' ')}\n`).join('');
}

export const rulesCheck: Check<PreflightContext> = {
  id: 'network.rules',
  title: 'packet rules',
  async run(context) {
    const { nft } = context.config.programs;
    const programs = await programsOutcome(context, [nft]);
    if (programs.status === 'failed') return programs;
    const lookedFor = `${programs.detail} and nf_tables in the kernel`;
    const member = { tap: SAMPLE_TAP, address: SAMPLE_LINK.address, nat: true };
    const guestDns = { gateway: SAMPLE_LINK.gateway, port: GUEST_DNS_PORT };
    const rules = renderRules({ table: context.table, members: [member], vmToVm: false, guestDns });
    const refusal = await tryInNamespace(context, [nft, '-f', '-'], rules);
    if (refusal !== undefined) {
      const detail = `The kernel refused a trial of banger's rules: ${refusal}`;
      return failed(lookedFor, detail, asRoot(LOAD_NFT.argv.join(' '), context.uid), LOAD_NFT);
    }
    const reached = context.config.network.vmToHost
      ? 'VMs reach every service of this host'
      : 'of this host VMs reach names and ping, no service (network.vm_to_host)';
    return ok(lookedFor, `the kernel takes banger's rules; ${reached}`);
  },
};

/** The pool against the routes of others; banger's own are told by their devices and by their type. */
export const poolCheck: Check<PreflightContext> = {
  id: 'network.pool',
  title: 'address pool',
  async run({ config, env, lately, ownLinks, poolHolder, pool, runner }) {
    const lookedFor = 'an address range that no route and no other banger of this host has';
    const fix = 'Choose a free range: BANGER_NETWORK_POOL=10.77.0.0/16, or network.pool in the configuration file.';
    if (pool === undefined) return failed(lookedFor, 'Every range banger would use is covered by a route.', fix);
    const holder = await poolHolder?.();
    if (holder && !holder.stranger) {
      const which = holder.pid === undefined ? '' : ` (process ${holder.pid})`;
      const detail = `Another banger on this host${which} gives its VMs addresses of ${pool}; two VMs would have the same.`;
      return failed(lookedFor, detail, `Stop the daemon of the other one. ${fix}`);
    }
    const ip = await findProgram(config.programs.ip, env);
    if (!ip.found) return notApplicable(lookedFor, 'Without ip the routes cannot be listed.');
    const wanted = parseSubnet(pool);
    const own = holder ? new Set(ownLinks?.()) : undefined;
    const isOwn = ({ destination, device, type }: HostRoute) =>
      (isTapName(device) && (own?.has(device ?? '') ?? true)) ||
      (type === 'unreachable' && formatSubnet(destination) === pool && (own?.has(pool) ?? true));
    const { once } = lately ?? NOTHING_LATELY;
    const others = await once(
      `routes over ${pool}`,
      async () =>
        (await listRoutes(runner, ip.path, [wanted])).filter(
          (route) => overlaps(route.destination, wanted) && !isOwn(route),
        ),
      (found) => found.length === 0,
    );
    const [other] = others;
    if (other === undefined && holder) {
      // whoever has VMs has routes to them, which take root; a name takes nothing
      const detail = `Process ${holder.pid} of another user (${holder.uid}) has taken the name of the pool ${pool}, and has no VMs in it: it is ignored.`;
      return warning(
        lookedFor,
        detail,
        `If it is a banger that shall keep it, choose another range for this one. ${fix}`,
      );
    }
    if (other === undefined) return ok(lookedFor, pool);
    return failed(lookedFor, `The pool ${pool} overlaps with a route by ${describeRoute(other)}.`, fix);
  },
};

/**
 * Runs a command in a network namespace of its own that ends with it: the kernel's real answer, and nothing
 * on the host changes.
 * @returns what the program said when it failed; undefined when it worked or no namespace can be made
 */
async function tryInNamespace(context: PreflightContext, argv: Argv, input?: string): Promise<string | undefined> {
  if (!(await findProgram('unshare', context.env)).found) return undefined;
  const { once } = context.lately ?? NOTHING_LATELY;
  return await once(
    `${argv.join(' ')} ${input ?? ''}`,
    () => attempt(context, argv, input),
    (said) => said === undefined,
  );
}

async function attempt(
  { env, runner, uid }: PreflightContext,
  argv: Argv,
  input?: string,
): Promise<string | undefined> {
  const namespace: Argv = uid === 0 ? ['unshare', '--net'] : ['unshare', '--user', '--map-root-user', '--net'];
  try {
    await runner.run([...namespace, '--', ...argv], {
      env,
      timeoutMs: TRIAL_LIMIT_MS,
      ...(input === undefined ? {} : { input }),
    });
    return undefined;
  } catch (error) {
    const stderr = error instanceof BangerError ? error.details?.stderr : undefined;
    const said = typeof stderr === 'string' && stderr.trim() !== '' ? stderr.trim() : messageOf(error);
    return said.startsWith('unshare:') ? undefined : (said.split('\n')[0] ?? said);
  }
}
