/** What a command is: what it takes, a function that returns data, and how people are shown these. */
import type {
  ArgName,
  ArgValues,
  CommandShape,
  Completes,
  OptionSpecs,
  OptionValues,
  Positional,
  RawInput,
} from './command-shape.ts';
import type { Context } from './context.ts';
import { plainData } from './output/plain-text.ts';

export interface CommandSpec<P extends readonly Positional[], O extends OptionSpecs, D> {
  positionals?: P;
  options?: O;
  /** one sentence or more that help shows below the summary */
  description?: string;
  /** command lines without the leading `banger` */
  examples: readonly string[];
  /** what its positionals are, for completion; one that is missing here is made up by whoever types it */
  completes?: Partial<Record<ArgName<P[number]>, Completes>>;
  /** everything after the first positional belongs to another program and is passed on unread */
  passThrough?: boolean;
  /** its last positional, which takes every word behind `--` and no other */
  behindDashes?: ArgName<P[number]>;
  /** false for a command that has nothing `--json` could print */
  data?: false;
  run(ctx: Context, input: { args: ArgValues<P>; options: OptionValues<O> }): Promise<D>;
  /** the data as text for people; a command without it has told all there is while it ran */
  print?(data: D, ctx: Context, options: OptionValues<O>): string;
}

/** A command whatever its types. */
export interface Command extends CommandShape {
  execute(ctx: Context, input: RawInput): Promise<void>;
}

export function defineCommand<
  const P extends readonly Positional[] = readonly [],
  const O extends OptionSpecs = Record<never, never>,
  D = void,
>(spec: CommandSpec<P, O, D>): Command {
  return {
    positionals: spec.positionals ?? [],
    options: spec.options ?? {},
    description: spec.description,
    examples: spec.examples,
    completes: spec.completes ?? {},
    passThrough: spec.passThrough ?? false,
    behindDashes: spec.behindDashes,
    data: spec.data ?? true,
    async execute(ctx, input) {
      // the parser filled it in by the same specification that types it here
      const typed = input as { args: ArgValues<P>; options: OptionValues<O> };
      const data = await spec.run(ctx, typed);
      if (data === undefined) return;
      if (ctx.json) ctx.print(JSON.stringify(data, null, 2));
      else if (spec.print) {
        const text = spec.print(plainData(data), ctx, typed.options);
        if (text !== '') ctx.print(text);
      }
    },
  };
}
