/** `banger completion`: a script for the user's shell, made from the registry. */
import { BangerError } from '../../../errors.ts';
import { defineCommand } from '../../command.ts';

const SHELLS = ['bash', 'zsh', 'fish'] as const;

export default defineCommand({
  positionals: ['shell'],
  completes: { shell: { words: SHELLS } },
  data: false,
  description:
    'Where the script goes:\n' +
    '  bash  ~/.local/share/bash-completion/completions/banger\n' +
    '  zsh   _banger in a directory of $fpath\n' +
    '  fish  ~/.config/fish/completions/banger.fish',
  examples: ['completion bash > ~/.local/share/bash-completion/completions/banger', 'completion fish | source'],
  async run(ctx, { args }) {
    const shell = SHELLS.find((name) => name === args.shell);
    if (!shell) {
      throw new BangerError('invalid_input', `There is no completion for "${args.shell}".`, {
        hint: `banger completion ${SHELLS.join('|')}`,
      });
    }
    const { completionScript } = await import('../../completion/script.ts');
    ctx.print(await completionScript(shell, ctx.commands));
  },
});
