/** `banger ssh`: the system's ssh with what it needs to know about one VM. */
import { loadConfig } from '../../../config/load.ts';
import { defineCommand } from '../../command.ts';
import { withoutSeparator } from '../../shared/pass-through.ts';
import { askSshAccess } from '../../shared/ssh-access.ts';
import { namesUser, sshArguments } from '../../shared/ssh-options.ts';
import type { Terminal } from '../../terminal.ts';

export default defineCommand({
  positionals: ['name', '[words...]'],
  completes: { name: ['vm'] },
  passThrough: true,
  data: false,
  description:
    'Options and a command for ssh itself may follow the name. The exit status is that of ssh. The user is root unless\n' +
    "another one is named, as USER@NAME or by -l; banger's key opens root alone, others need keys of their own (-i).",
  examples: ['ssh web', 'ssh web uptime', 'ssh web -L 8080:localhost:80', 'ssh app@web -i ~/.ssh/id_ed25519'],
  async run(ctx, { args: { name: given, words } }) {
    const [, user, name = given] = /^(.*)@([^@]*)$/s.exec(given) ?? [];
    const term = rareTerminal(ctx.terminal);
    const [access, { config }] = await Promise.all([
      askSshAccess(ctx, name, term),
      loadConfig({ env: ctx.terminal.env, uid: ctx.terminal.uid }),
    ]);
    const passed = withoutSeparator(words);
    // the first user ssh hears of counts, so ours is named when there is no other
    const named = user ?? (namesUser(passed) ? undefined : access.user);
    const destination = named === undefined ? access.address : `${named}@${access.address}`;
    // ssh tells the guest what stands in its own environment
    const env = access.term === null ? {} : { env: { TERM: access.term } };
    ctx.status = await ctx.terminal.runInteractive(
      [config.programs.ssh, ...sshArguments(access), destination, ...passed],
      env,
    );
  },
});

/** Terminals that are in every terminfo, so that no guest is asked about them. */
const COMMON_TERMINALS = new Set([
  ...['dumb', 'linux', 'vt100', 'vt220', 'xterm', 'xterm-256color'],
  ...['screen', 'screen-256color', 'tmux', 'tmux-256color'],
]);

/** The API takes no longer names. */
const LONGEST_NAME = 64;

/** What a guest may not know of the terminal that ssh will pass on; undefined when ssh passes on none. */
function rareTerminal({ stdin, stdout, env }: Terminal): string | undefined {
  const { TERM: term = '' } = env;
  const passed = stdin.isTTY === true || stdout.isTTY === true;
  return passed && term !== '' && term.length <= LONGEST_NAME && !COMMON_TERMINALS.has(term) ? term : undefined;
}
