/** Whether banger may do as root what it must: by the network helper, or by sudo and for exactly the commands it runs. */
import { readFile } from 'node:fs/promises';
import { gatewayOf, parseSubnet } from '../../core/addresses.ts';
import { BangerError, messageOf } from '../../errors.ts';
import { greetHelper, helperAccess } from '../../network/helper-client.ts';
import { findUplink } from '../../network/routes.ts';
import { findProgram } from '../../system/host-facts.ts';
import {
  fillArguments,
  type Placeholder,
  PRIVILEGED_COMMANDS,
  type PrivilegedCommand,
  SAMPLE_TAP,
} from '../../system/privileged-commands.ts';
import type { Argv } from '../../system/runner.ts';
import { type Check, type CheckOutcome, failed, ok } from '../check.ts';
import type { PreflightContext } from '../context.ts';
import { installAdvice } from '../fixes.ts';
import { programName } from '../sudoers.ts';

/** Bit of CAP_NET_ADMIN in /proc/PID/status; Linux: include/uapi/linux/capability.h. */
const CAP_NET_ADMIN = 12n;

/** Installs what `banger doctor --sudoers` prints, in one command and with the mode sudo demands. */
export const INSTALL_SUDOERS = 'banger doctor --sudoers | sudo install -m 0440 /dev/stdin /etc/sudoers.d/banger';

/** A session, and a daemon started in it, keeps the groups it began with. */
const JOIN_GROUP =
  'sudo usermod -aG banger "$USER", then log in again, and stop a daemon that runs: banger daemon stop';

export const privilegeCheck: Check<PreflightContext> = {
  id: 'privilege',
  title: 'rights',
  run: (context) => (context.uid === 0 ? checkRoot() : checkUser(context)),
};

async function checkRoot(): Promise<CheckOutcome> {
  const lookedFor = 'CAP_NET_ADMIN in /proc/self/status';
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(await readFile('/proc/self/status', 'utf8'))?.[1] ?? '0';
  if ((BigInt(`0x${effective}`) >> CAP_NET_ADMIN) & 1n) return ok(lookedFor, 'root with the right to set up networks');
  return failed(
    lookedFor,
    'This root may not set up networks; it is the root of a container.',
    'Start the container with: --cap-add NET_ADMIN --device /dev/net/tun',
  );
}

/** The helper first, as the daemon does; who may not use it is told how, unless sudo does as well. */
async function checkUser(context: PreflightContext): Promise<CheckOutcome> {
  const socket = context.config.privilege.helper;
  const access = await helperAccess(socket);
  if (access === 'absent') return await checkSudo(context);
  const lookedFor = `the network helper at ${socket}`;
  if (access === 'allowed') {
    try {
      const { version, vmLimit } = await greetHelper(socket);
      return ok(lookedFor, `the network helper (${version}) sets up networks for up to ${vmLimit} VMs of this user`);
    } catch (error) {
      return failed(lookedFor, messageOf(error), 'sudo systemctl restart bangernet.socket');
    }
  }
  const bySudo = await checkSudo(context);
  if (bySudo.status === 'ok') return bySudo;
  const detail = 'There is a network helper on this host, and this user is not in its group, banger.';
  return failed(lookedFor, detail, JOIN_GROUP);
}

async function checkSudo(context: PreflightContext): Promise<CheckOutcome> {
  const { config, env, facts } = context;
  const lookedFor = '`sudo -n` for the commands that `banger doctor --sudoers` lists';
  if (config.privilege.sudo === 'never') {
    return failed(
      lookedFor,
      'This user is not root, and privilege.sudo is "never". It sets up networks for VMs with sudo\'s help, or as root.',
      'Set privilege.sudo = "auto", or run the daemon as root.',
    );
  }
  const sudo = await findProgram(config.programs.sudo, env);
  if (!sudo.found) {
    const detail = `This user is not root, and ${config.programs.sudo} is not installed (looked ${sudo.why}). It sets up networks for VMs with sudo's help, or as root.`;
    return failed(lookedFor, detail, installAdvice(facts.distribution, [config.programs.sudo], 0));
  }
  const refused = context.thorough ? await refusedRules(context, sudo.path) : await refusedProbes(context);
  if (refused.length === 0) return ok(lookedFor, 'sudo lets this user run them without a password');
  const detail = `sudo does not let this user run without a password: ${refused.join('; ')}.`;
  return failed(lookedFor, detail, INSTALL_SUDOERS);
}

/** Tries one command of each program that can only fail, on a device that does not exist. */
async function refusedProbes(context: PreflightContext): Promise<string[]> {
  const { ip, nft, sysctl } = context.config.programs;
  const probes: Argv[] = [
    [ip, 'link', 'delete', 'dev', SAMPLE_TAP],
    [nft, '-j', 'list', 'table', 'inet', context.table],
    [sysctl, '-q', '-w', `net/ipv4/conf/${SAMPLE_TAP}/forwarding=1`],
  ];
  const refused = await Promise.all(
    probes.map(async (argv) => {
      try {
        await context.rights.network.run(argv);
        return [];
      } catch (error) {
        // a program that ran and failed was let through; a missing one has a check of its own
        const isRefusal = error instanceof BangerError && error.code === 'host_unprepared' && !isMissing(error);
        return isRefusal ? [argv.join(' ')] : [];
      }
    }),
  );
  return refused.flat();
}

function isMissing(error: BangerError): boolean {
  return messageOf(error).includes('not installed');
}

/** Asks sudo about every command that is not for few, without running any. */
async function refusedRules(context: PreflightContext, sudo: string): Promise<string[]> {
  const probes = await refusedProbes(context);
  if (probes.length > 0) return probes;
  const commands = PRIVILEGED_COMMANDS.filter(({ right }) => right === 'network');
  const refused = await Promise.all(
    commands.map(async (command) => {
      const argv = await exampleOf(command, context);
      const [, , , ...asked] = await context.rights[command.right].argv(argv);
      const { exitCode } = await context.runner.run([sudo, '-n', '-l', '--', ...asked], { okExits: [0, 1] });
      return exitCode === 0 ? [] : [argv.join(' ')];
    }),
  );
  return refused.flat();
}

async function exampleOf({ program, args }: PrivilegedCommand, context: PreflightContext): Promise<Argv> {
  const pool = context.pool ?? '172.30.0.0/16';
  const examples: Record<Placeholder, string> = {
    tap: SAMPLE_TAP,
    address: pool.replace(/\d{1,3}\/\d{1,3}$/, '2'),
    gateway: gatewayOf(parseSubnet(pool)),
    pool,
    mac: '06:00:00:00:00:00',
    hostMac: '02:00:00:00:00:00',
    mtu: '1500',
    uid: String(context.uid),
    table: context.table,
    uplink: await uplinkOf(context),
    flag: '1',
    pid: '1',
    vm: '00000000',
    run: context.config.paths.run,
    store: context.config.paths.store,
    cache: context.config.paths.cache,
    state: context.config.paths.state,
    loop: '0',
  };
  return [
    programName(program, context.config),
    ...fillArguments(args, (placeholder) => examples[placeholder]).split(' '),
  ];
}

/** Forwarding of the uplink is switched by name; where there is none, any tap's rule says the same. */
async function uplinkOf({ config, runner }: PreflightContext): Promise<string> {
  return (await findUplink(runner, config.programs.ip, config.network.uplink))?.device ?? SAMPLE_TAP;
}
