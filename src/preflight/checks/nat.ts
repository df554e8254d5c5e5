/** The way from VMs to the outside: an uplink, forwarding, and no rule of others that drops it. */
import { access, constants, readFile } from 'node:fs/promises';
import { BangerError } from '../../errors.ts';
import { forwardingSetting, readSetting } from '../../network/forwarding.ts';
import { mayAskHelper } from '../../network/helper-client.ts';
import { GUEST_DNS_PORT } from '../../network/nftables.ts';
import { findUplink, findWays } from '../../network/routes.ts';
import { findProgram } from '../../system/host-facts.ts';
import type { Argv } from '../../system/runner.ts';
import { type Check, type CheckOutcome, failed, notApplicable, ok, warning } from '../check.ts';
import type { PreflightContext } from '../context.ts';
import { type Drop, findForwardDrops, findNameDrops, type Paths } from '../firewall/drops.ts';
import { parseIptablesSave } from '../firewall/legacy.ts';
import { parseNftRuleset, type Ruleset } from '../firewall/ruleset.ts';
import { asRoot } from '../fixes.ts';
import { NOTHING_LATELY } from '../lately.ts';

export const uplinkCheck: Check<PreflightContext> = {
  id: 'nat.uplink',
  title: 'uplink',
  async run(context) {
    const { uplink } = context.config.network;
    const lookedFor = uplink === 'auto' ? 'the device of the default route' : `the device ${uplink}`;
    const found = await uplinkOf(context);
    if (found !== undefined) {
      const others = (await devicesOf(context)).filter((device) => device !== found);
      return ok(lookedFor, others.length > 0 ? `${found}; other routes lead to ${others.join(', ')}` : found);
    }
    if (uplink !== 'auto') {
      return failed(lookedFor, `There is no network device ${uplink}.`, 'Correct network.uplink; devices: ip -br link');
    }
    // a laptop without a network still runs VMs
    return warning(lookedFor, 'This host has no default route: VMs reach the host and each other, nothing else.');
  },
};

export const forwardingCheck: Check<PreflightContext> = {
  id: 'nat.forwarding',
  title: 'forwarding',
  async run(context) {
    const { config, uid } = context;
    const devices = await devicesOf(context);
    const names = devices.map(forwardingSetting);
    const [name] = names;
    if (name === undefined) return notApplicable('forwarding on the uplink', 'No route leads outside.');
    const lookedFor = names.map((each) => `/proc/sys/${each}`).join(', ');
    const off: string[] = [];
    for (const device of devices) if ((await readSetting(forwardingSetting(device))) === '0') off.push(device);
    const [first] = off;
    if (first === undefined) return ok(lookedFor, `${devices.join(', ')} forward packets`);
    const later = `banger switches forwarding of ${off.join(', ')} on while VMs run, for VMs alone`;
    if (uid !== 0) {
      const sysctl = await findProgram(config.programs.sysctl, context.env);
      return sysctl.found
        ? ok(lookedFor, later)
        : failed(
            lookedFor,
            `${config.programs.sysctl} is not installed.`,
            forwardingFix(forwardingSetting(first), uid),
          );
    }
    try {
      await access(`/proc/sys/${forwardingSetting(first)}`, constants.W_OK);
      return ok(lookedFor, later);
    } catch {
      return failed(
        lookedFor,
        'Forwarding is off, and kernel settings are read-only here.',
        forwardingFix(forwardingSetting(first), uid),
      );
    }
  },
};

function forwardingFix(setting: string, uid: number): string {
  return asRoot(`sysctl -w ${setting}=1`, uid);
}

/**
 * What is read in rules of others is a judgement, and it may be wrong: it is told and stops nothing. A VM whose packets are
 * dropped still runs.
 */
export const forwardDropCheck: Check<PreflightContext> = {
  id: 'nat.firewall',
  title: 'forwarded packets',
  async run(context) {
    const lookedFor = 'rules of Docker, ufw, firewalld and others that drop packets of VMs';
    const devices = await devicesOf(context);
    if (devices.length === 0) return notApplicable(lookedFor, 'No route leads outside.');
    return await judge(context, lookedFor, (rulesets, paths) =>
      devices.flatMap((uplink) => findForwardDrops(rulesets, { ...paths, uplink })),
    );
  },
};

/** VMs that cannot look up a name still run, and reach everything by address. */
export const nameDropCheck: Check<PreflightContext> = {
  id: 'nat.names',
  title: 'lookups of VMs',
  async run(context) {
    const lookedFor = `rules that drop what VMs ask this host for names, on port ${GUEST_DNS_PORT}`;
    if (!context.config.dns.enabled) return notApplicable(lookedFor, 'dns.enabled is false.');
    return await judge(context, lookedFor, (rulesets, paths) =>
      findNameDrops(rulesets, { ...paths, port: GUEST_DNS_PORT }),
    );
  },
};

async function judge(
  context: PreflightContext,
  lookedFor: string,
  find: (rulesets: Ruleset[], paths: Paths) => Drop[],
): Promise<CheckOutcome> {
  const { once } = context.lately ?? NOTHING_LATELY;
  return await once(
    lookedFor,
    () => judgeNow(context, lookedFor, find),
    ({ status }) => status === 'ok',
  );
}

async function judgeNow(
  context: PreflightContext,
  lookedFor: string,
  find: (rulesets: Ruleset[], paths: Paths) => Drop[],
): Promise<CheckOutcome> {
  if (context.pool === undefined) return notApplicable(lookedFor, 'There is no address pool.');
  if (context.uid !== 0 && (await mayAskHelper(context.config.privilege.helper))) {
    return notApplicable(
      lookedFor,
      'The network helper shows nobody the rules of this host; root can look: sudo banger doctor',
    );
  }
  const rulesets = await readRulesets(context);
  if (rulesets === undefined) return warning(lookedFor, 'The rules of this host could not be read.');
  const drops = find(rulesets, { ownTable: context.table, pool: context.pool, uid: context.uid });
  if (drops.length === 0) return ok(lookedFor, 'nothing drops them');
  const detail = drops
    .map(
      ({ culprit, packets, chain }) =>
        `${culprit} drops packets ${packets} (chain ${chain.family} ${chain.table} ${chain.name})`,
    )
    .join('; ');
  const fix = [...new Set(drops.map((drop) => drop.fix))].join(' && ');
  return warning(lookedFor, `${detail}.`, fix);
}

/** Every rule of the host; undefined when this user may not see them. */
async function readRulesets(context: PreflightContext): Promise<Ruleset[] | undefined> {
  const { nft } = context.config.programs;
  const rulesets: Ruleset[] = [];
  try {
    rulesets.push(parseNftRuleset((await context.rights.network.run([nft, '-j', 'list', 'ruleset'])).stdout));
  } catch (error) {
    // missing programs and rights have checks of their own
    if (error instanceof BangerError && error.code !== 'corrupt') return undefined;
    throw error;
  }
  const legacy = await readLegacy(context);
  return legacy ? [...rulesets, legacy] : rulesets;
}

/** The older kernel interface is in use when its filter table is loaded; reading it loads nothing then. */
async function readLegacy({ env, rights, uid }: PreflightContext): Promise<Ruleset | undefined> {
  const tables = await readFile('/proc/net/ip_tables_names', 'utf8').catch(() => '');
  if (uid !== 0 || !tables.split('\n').includes('filter')) return undefined;
  if (!(await findProgram('iptables-legacy-save', env)).found) return undefined;
  const argv: Argv = ['iptables-legacy-save', '-t', 'filter'];
  return parseIptablesSave((await rights.root.run(argv)).stdout);
}

/** Every device that packets of VMs may leave by, the uplink first. */
async function devicesOf(context: PreflightContext): Promise<string[]> {
  const { config, env, lately, runner } = context;
  const ip = await findProgram(config.programs.ip, env);
  if (!ip.found) return [];
  const uplink = await uplinkOf(context);
  const { once } = lately ?? NOTHING_LATELY;
  const found = await once(
    'ways',
    () => findWays(runner, ip.path),
    (ways) => ways.length > 0,
  );
  const devices = found.map(({ device }) => device);
  return [...new Set([...(uplink === undefined ? [] : [uplink]), ...devices])];
}

async function uplinkOf({ config, env, lately, runner }: PreflightContext): Promise<string | undefined> {
  const ip = await findProgram(config.programs.ip, env);
  if (!ip.found) return undefined;
  const { once } = lately ?? NOTHING_LATELY;
  const { uplink } = config.network;
  return await once(
    `uplink ${uplink}`,
    async () => (await findUplink(runner, ip.path, uplink))?.device,
    (device) => device !== undefined,
  );
}
