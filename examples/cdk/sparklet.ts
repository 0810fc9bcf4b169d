/** Sparklet as a stack of a CDK application: the template that `sam package` wrote, and what is yours beside it. */
import { readFileSync, writeFileSync } from "node:fs";

import { App, Stack, Token } from "aws-cdk-lib";
import { Rule, RuleTargetInput, Schedule } from "aws-cdk-lib/aws-events";
import { SfnStateMachine } from "aws-cdk-lib/aws-events-targets";
import { BlockPublicAccess, Bucket } from "aws-cdk-lib/aws-s3";
import { StateMachine } from "aws-cdk-lib/aws-stepfunctions";
import { CfnInclude } from "aws-cdk-lib/cloudformation-include";

const RAW = "acme-raw"; // a name, not a token: conditions of the template look at its parameters
const PARAMETERS: Record<string, string | number> = {
  ReadObjectArns: `arn:aws:s3:::${RAW}/sales/*,arn:aws:s3:::${RAW}/sales`,
  ListBucketArns: `arn:aws:s3:::${RAW}`,
  MaximumConcurrency: 20,
};

// CfnInclude refuses SAM's `Ref: Function.Alias` (aws/aws-cdk issue 22747); within Fn::Sub it lets the same pass.
const packaged = readFileSync("packaged.json", "utf8");
writeFileSync("included.json", packaged.replace(/\{\s*"Ref":\s*"(\w+\.Alias)"\s*\}/g, '{"Fn::Sub": "$${$1}"}'));

const stack = new Stack(new App(), "sparklet"); // the value of --stack
const sparklet = new CfnInclude(stack, "Template", { templateFile: "included.json" });
for (const [name, value] of Object.entries(PARAMETERS)) {
  sparklet.getParameter(name).default = value;
}

// Beside it: a bucket of inputs, and a run each night over what is new there.
new Bucket(stack, "Raw", { bucketName: RAW, blockPublicAccess: BlockPublicAccess.BLOCK_ALL, enforceSSL: true });
const output = (name: string) => Token.asString(sparklet.getOutput(name).value);
const bucket = output("BucketName");
const machine = StateMachine.fromStateMachineArn(stack, "Machine", output("RunMachineArn"));
const request = {
  script: `s3://${bucket}/scripts/sales.py`,
  inputs: [`s3://${RAW}/sales/`],
  output: `s3://${bucket}/output/sales/`,
  name: "sales",
  incremental: true,
};
new Rule(stack, "Nightly", {
  schedule: Schedule.cron({ hour: "2", minute: "0" }),
  targets: [new SfnStateMachine(machine, { input: RuleTargetInput.fromObject(request) })],
});
